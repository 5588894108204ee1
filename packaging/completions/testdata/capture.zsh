# DIRECTORY FILE LINE: press the tab key behind LINE in an interactive zsh, with
# the completions of DIRECTORY, and print what it offers, by way of FILE.
zmodload zsh/zpty zsh/zselect || exit 1
wait_for() { repeat 1200; do grep -qs "^$1" $2 && return; zselect -t 5; done; return 1 }
zpty shell zsh -f -i
zpty -w shell "fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D"
# Matches go through compadd; with -O, -A or -D it only computes.
zpty -w shell 'compadd() {
	[[ ${@[1,(i)(-|--)]} == *-[a-zA-Z]#[OAD]\ * ]] || { local -a hits; builtin compadd -A hits "$@"; print -rl -- $hits >>| '${(q)2}'; }
	builtin compadd "$@"
}'
zpty -w shell 'finish() { print "<done>" >>| '${(q)2}' }; comppostfuncs=(finish); bindkey "^I" complete-word; print "<ready>" >>| '${(q)2}
wait_for '<ready>' $2 || exit 1
zpty -wn shell "$3"$'\t'
wait_for '<done>' $2 || exit 1
zpty -d shell
grep -v '^<' $2
true
