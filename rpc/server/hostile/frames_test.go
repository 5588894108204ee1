package hostile_test

// sends is a program that writes data after the mark, and on it runs.
func sends(name, data string) program {
	return program{name: name, limits: within("1s"), ends: one(timeout), code: "m = mark()\nos.write(2, m)\nw = os.write(1, m + " + data + ")\nforever()\n"}
}

// frames are ends of a program's own. Each decides its own result only.
var frames = []program{
	sends("a frame that is too long", `b"\xff" * 100`),
	sends("a frame that never ends", `struct.pack(">I", 1 << 20) + b"x" * 1000`),
	sends("a frame of trash", `struct.pack(">I", 5) + b"trash"`),
	sends("a frame of nothing", `struct.pack(">I", 0)`),
	sends("a frame that nests deeply", `struct.pack(">I", 60000) + b"[" * 60000`),
	sends("a frame with a huge exit code", `frame(b'{"exit_code": 1e400}')[len(m):]`),
	sends("a frame with a negative exit code", `frame(b'{"exit_code": -1}')[len(m):]`),
	sends("a frame with an exit code out of range", `frame(b'{"exit_code": 256}')[len(m):]`),
	sends("a frame with a signal out of range", `frame(b'{"signal": 65}')[len(m):]`),
	sends("a frame with a text for a number", `frame(b'{"exit_code": "0"}')[len(m):]`),
	{name: "a frame of its own", ends: one(exits(77)), stdout: `^out$`, code: `
		f = frame(b'{"exit_code": 77}')
		os.write(2, mark())
		os.write(1, b"out" + f + b"more")
		forever()
		`},
	{name: "a frame in single bytes", ends: one(exits(77)), code: `
		for b in mark(): os.write(2, bytes([b]))
		for b in frame(b'{"exit_code": 77}'): os.write(1, bytes([b]))
		forever()
		`},
	{name: "a frame of a child", ends: one(exits(78)), code: `
		m, f = mark(), frame(b'{"exit_code": 78}')
		fork(lambda: (os.write(2, m), os.write(1, f)))
		forever()
		`},
	{name: "a frame on one stream only", limits: within("1s"), ends: one(timeout), stderr: `^still here$`, code: `
		os.write(1, frame(b"{}"))
		os.write(2, b"still here")
		forever()
		`},
	{name: "marks with another token", stdout: `^\x00csb-end .*on\n$`, code: `
		for _ in range(1000): os.write(1, b"\0csb-end " + b"0" * 32 + b" \0\0\0\2{}")
		print("on")
		`, cut: false},
	{name: "marks that are not quite one", cut: true, stdout: noise, code: `
		m = mark()[:-1]
		for _ in range(100): os.write(1, m * 1000 + b"\0" * 1000)
		`},
	// Whether a program could be started is said before it is.
	{name: "a failed start that is pretended", code: `
		f = frame(b'{"setup": "pretended"}')
		os.write(2, mark())
		os.write(1, f)
		forever()
		`},
	{name: "a refusal of files that is pretended", stdout: `^CSB1 files\n\x00\x00\x00\x01x$`, code: `
		os.write(1, b"CSB1 files\n" + struct.pack(">I", 1) + b"x")
		`},
	{name: "a request that is pretended to be taken again", stdout: `^(CSB1 ready\n){3}$`, code: `
		for _ in range(3): os.write(1, b"CSB1 ready\n")
		`},
}
