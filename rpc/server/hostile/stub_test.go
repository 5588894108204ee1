package hostile_test

var processes, interpreter, frames, kernel, host, neighbours, nextCaller []program

const neighbour = ""
