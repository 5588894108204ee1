# Completion of csbd(8) in bash. It needs nothing but bash.

_csbd_words() {
	mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}

_csbd() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	case $COMP_CWORD:${COMP_WORDS[1]}:${COMP_WORDS[2]} in
	1:*) _csbd_words "$cur" "serve check reload doctor image version help" ;;
	2:check:*)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		;;
	2:doctor:*) _csbd_words "$cur" "--json" ;;
	2:image:*) _csbd_words "$cur" "build list remove" ;;
	3:image:build)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		;;
	3:image:remove) _csbd_words "$cur" "$(timeout 2 csbd image list </dev/null 2>/dev/null | awk 'NR > 1 { print $1 }')" ;;
	esac
}

complete -F _csbd csbd
