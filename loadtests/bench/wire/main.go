// The bench's two ends, as lean as they can be so that what stands between them is what is measured.
//
//	wire upstream -port N        answers chats, messages and responses at full speed or at a pace
//	wire client   -port N ...    sends requests, checks every answer, prints what it saw as one line of JSON
//
// Both listen and connect on 127.0.0.1 only.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
)

func main() {
	debug.SetGCPercent(400)
	if len(os.Args) > 1 && os.Args[1] == "upstream" {
		runUpstream(os.Args[2:])
	} else if len(os.Args) > 1 && os.Args[1] == "client" {
		runClient(os.Args[2:])
	} else {
		fail(fmt.Errorf("say: wire upstream, or wire client"))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "wire:", err)
	os.Exit(1)
}
