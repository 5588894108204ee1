# FILE WORD...: source the completion and print what it offers for the last word.
source "$1" || exit 1
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
how=$(complete -p "$1") || exit 1
how=${how#*-F }
"${how%% *}" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
