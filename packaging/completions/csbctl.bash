# Completion of csbctl(1) in bash. It needs nothing but bash.

# The images that there are, as csbd says: quietly, and never for long.
_csbctl_images() {
	timeout 2 csbctl ${1:+--socket "$1"} images --json </dev/null 2>/dev/null |
		grep -o '"name":"[^"]*","digest"' | cut -d'"' -f4
}

_csbctl_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

_csbctl_words() {
	mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}

_csbctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} i word name verb= second= flag= code= socket=
	COMPREPLY=()
	# flag: whose value comes next. verb: a command, or a file or an argument,
	# behind which everything is the program's.
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ -n $flag ]]; then
			[[ $word == "=" ]] && continue # of --flag=value, which bash takes apart
			[[ $flag == socket ]] && socket=$word
			flag=
			continue
		fi
		case $verb in
		"" | status | top | images | policy | doctor | version) ;;
		*) continue ;;
		esac
		if [[ $word != -?* ]]; then
			if [[ -z $verb ]]; then verb=${code:-$word}; elif [[ -z $second ]]; then second=$word; fi
			continue
		fi
		name=${word#-} name=${name#-}
		case $name in
		c | cpu-time | disk | env | file | image | memory | open-files | output | processes | socket | timeout | interval | count) flag=$name ;;
		esac
		[[ $name == c ]] && code=-
	done
	[[ -n $flag && $cur == "=" ]] && cur=

	case $flag in
	file | socket) _csbctl_files "$cur" && return ;;
	image) _csbctl_words "$cur" "$(_csbctl_images "$socket")" && return ;;
	?*) return ;;
	esac
	case $verb:$cur in
	:-*) _csbctl_words "$cur" "-c --cpu-time --disk --env --file --help --image --json --memory --open-files --output --processes --raw --socket --timeout" ;;
	:*)
		_csbctl_files "$cur"
		[[ -n $code ]] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "status top images policy doctor version" -- "$cur")
		;;
	top:-*) _csbctl_words "$cur" "--count --help --interval --json --socket" ;;
	status:-* | images:-* | policy:-* | doctor:-* | version:-*) _csbctl_words "$cur" "--help --json --socket" ;;
	policy:*)
		case $second in
		"") _csbctl_words "$cur" "show check" ;;
		check) _csbctl_files "$cur" ;;
		esac
		;;
	status:* | top:* | images:* | doctor:* | version:*) ;;
	*) _csbctl_files "$cur" ;;
	esac
}

complete -F _csbctl csbctl
