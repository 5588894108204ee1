# Completion of csbd(8) in fish.

# Whether the words behind csbd are these, and no more.
function __csbd_is
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end

function __csbd_images
    timeout 2 csbd image list </dev/null 2>/dev/null | awk 'NR > 1 { print $1 }'
end

complete -c csbd -f
complete -c csbd -n __csbd_is -a serve -d 'serve until SIGTERM'
complete -c csbd -n __csbd_is -a check -d 'say whether a policy file is right'
complete -c csbd -n __csbd_is -a reload -d 'have a running csbd read its policy again'
complete -c csbd -n __csbd_is -a doctor -d 'say whether isolation works here'
complete -c csbd -n __csbd_is -a image -d 'build, list or remove images'
complete -c csbd -n __csbd_is -a version -d 'print versions'
complete -c csbd -n __csbd_is -a help -d 'print help'
complete -c csbd -n '__csbd_is check' -F
complete -c csbd -n '__csbd_is doctor' -l json -d 'print JSON'
complete -c csbd -n '__csbd_is image' -a build -d 'build the image that a directory describes'
complete -c csbd -n '__csbd_is image' -a list -d 'list the images'
complete -c csbd -n '__csbd_is image' -a remove -d 'remove an image'
complete -c csbd -n '__csbd_is image build' -a '(__fish_complete_directories)'
complete -c csbd -n '__csbd_is image remove' -a '(__csbd_images)'
