# Completion of csbctl(1) in fish.

# What stands behind the flags: a command, a file, or "--" for an argument of
# the program; "-c" when there is code, and nothing yet.
function __csbctl_verb
    set -l code
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case -c --c
                set code -c
                set -e words[1]
            case '-c=*' '--c=*'
                set code -c
            case '-*=*'
            case -cpu-time -disk -env -file -image -memory -open-files -output -processes -socket -timeout --cpu-time --disk --env --file --image --memory --open-files --output --processes --socket --timeout
                set -e words[1]
            case '-?*'
            case '*'
                set -q code[1]; and echo -- --; or echo -- $words[1]
                return
        end
        set -e words[1]
    end
    echo -- $code
end

function __csbctl_verb_is
    contains -- "$(__csbctl_verb)" $argv
end

# Whether one of the words is there.
function __csbctl_seen
    for word in $argv
        contains -- $word (commandline -opc)[2..]; and return
    end
    return 1
end

# The images that there are, as csbd says: quietly, and never for long.
function __csbctl_images
    set -l words (commandline -opc)
    set -l socket
    for i in (seq (count $words))
        string match -qr -- '^--?socket$' $words[$i]; and set socket --socket $words[(math $i + 1)]
        string match -qr -- '^--?socket=.' $words[$i]; and set socket --socket (string replace -r -- '^--?socket=' '' $words[$i])
    end
    timeout 2 csbctl $socket images --json </dev/null 2>/dev/null | string match -rag '"name":"([^"]*)","digest"'
end

set -l commands status top images policy doctor version

# Files are for programs, --file, --socket and policy check.
complete -c csbctl -n "__csbctl_verb_is $commands" -f
complete -c csbctl -n '__csbctl_verb_is policy; and __csbctl_seen check' -F

complete -c csbctl -n '__csbctl_verb_is ""' -a status -d 'what csbd is doing, and whether it is ready'
complete -c csbctl -n '__csbctl_verb_is ""' -a top -d 'the same, live'
complete -c csbctl -n '__csbctl_verb_is ""' -a images -d 'the images that I may use'
complete -c csbctl -n '__csbctl_verb_is ""' -a policy -d 'what I may do, and whether a policy is right'
complete -c csbctl -n '__csbctl_verb_is ""' -a doctor -d 'whether isolation works'
complete -c csbctl -n '__csbctl_verb_is ""' -a version -d 'what csbctl and csbd are'
complete -c csbctl -n '__csbctl_verb_is policy; and not __csbctl_seen show check' -a show -d 'what I may do'
complete -c csbctl -n '__csbctl_verb_is policy; and not __csbctl_seen show check' -a check -d 'whether a policy file is right'

complete -c csbctl -n "__csbctl_verb_is '' -c $commands" -l help -d 'print help'
complete -c csbctl -n "__csbctl_verb_is '' -c $commands" -l json -d 'print JSON'
complete -c csbctl -n "__csbctl_verb_is '' -c $commands" -l socket -rF -d 'socket of csbd'
complete -c csbctl -n '__csbctl_verb_is top' -l interval -x -d 'time between two looks'
complete -c csbctl -n '__csbctl_verb_is top' -l count -x -d 'number of looks'

complete -c csbctl -n '__csbctl_verb_is "" -c' -s c -x -d 'code to run'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l cpu-time -x -d 'processor time it may use'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l disk -x -d 'size of its files'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l env -x -d 'set an environment variable'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l file -rF -d 'place a file in the working directory'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l image -x -a '(__csbctl_images)' -d 'image to run in'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l memory -x -d 'memory it may use'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l open-files -x -d 'files it may have open'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l output -x -d 'size to which output is kept'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l processes -x -d 'processes and threads it may have'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l raw -d 'copy its output instead of printing JSON'
complete -c csbctl -n '__csbctl_verb_is "" -c' -l timeout -x -d 'time it may take'
