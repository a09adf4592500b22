package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const errorsBeforeGivingUp = 200

const textDone = "event: response.output_text.done"

const messagesPath, responsesPath = "/v1/messages", "/v1/responses"

// endOf says what stands near the end of a whole stream, and nowhere else in it.
func endOf(path string) string {
	switch path {
	case messagesPath:
		return "message_stop"
	case responsesPath:
		return `"total_tokens"`
	}
	return "[DONE]"
}

// idleLimit is how long a connection may lie idle and be used again: servers close theirs after some seconds.
const idleLimit = time.Second

// options are the client's flags.
type options struct {
	port, connections, requests, tokens, promptBytes int
	model, headers, trace, path, mark                string
	stream                                           bool
	seconds, warmup, speed, limit, rate              float64
}

// report is what the client prints. Latencies are in whole microseconds, of the good answers only.
type report struct {
	WindowS        float64        `json:"window_s"`
	WindowRequests int64          `json:"window_requests"`
	WindowTokens   int64          `json:"window_tokens"`
	Requests       int64          `json:"requests"`
	Tokens         int64          `json:"tokens"`
	Errors         map[string]int `json:"errors"`
	LatencyUs      []int64        `json:"latency_us"`
	TTFTUs         []int64        `json:"ttft_us"`
	TPOTUs         []int64        `json:"tpot_us"`        // (last - first) / (tokens - 1), of each answer
	LongestGapUs   []int64        `json:"longest_gap_us"` // between two tokens, of each answer
}

// tally gathers what all connections see.
type tally struct {
	requests, tokens int64     // by sync/atomic
	deadline         time.Time // of everything
	mutex            sync.Mutex
	failures         int
	report           report
}

func (t *tally) good(latency, ttft time.Duration, a *answerState) {
	atomic.AddInt64(&t.requests, 1)
	t.mutex.Lock()
	t.report.LatencyUs = append(t.report.LatencyUs, latency.Microseconds())
	t.report.TTFTUs = append(t.report.TTFTUs, ttft.Microseconds())
	if a.count > 1 {
		t.report.TPOTUs = append(t.report.TPOTUs, a.last.Sub(a.first).Microseconds()/int64(a.count-1))
		t.report.LongestGapUs = append(t.report.LongestGapUs, a.longestGap.Microseconds())
	}
	t.mutex.Unlock()
}

// bad counts a failure and says whether there have been too many.
func (t *tally) bad(err error) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.failures++
	reason := err.Error()
	if len(reason) > 160 {
		reason = reason[:160]
	}
	if strings.Contains(reason, "127.0.0.1:") { // "read tcp 127.0.0.1:40022->127.0.0.1:8080: reason"
		reason = reason[strings.LastIndex(reason, ": ")+2:]
	}
	t.report.Errors[reason]++
	return t.failures > errorsBeforeGivingUp || time.Now().After(t.deadline)
}

func runClient(arguments []string) {
	var o options
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.IntVar(&o.port, "port", 0, "TCP port on 127.0.0.1")
	flags.IntVar(&o.connections, "connections", 1, "connections, each with one request at a time")
	flags.IntVar(&o.requests, "requests", 0, "requests per connection; 0: until the time is up")
	flags.IntVar(&o.tokens, "tokens", 16, "tokens that each answer must have")
	flags.IntVar(&o.promptBytes, "prompt-bytes", 60, "size of the prompt")
	flags.StringVar(&o.model, "model", "bench", "model to ask for")
	flags.StringVar(&o.headers, "headers", "", "further request headers, each ending in \\n")
	flags.StringVar(&o.trace, "trace", "", "replay this trace instead, by its own clock")
	flags.Float64Var(&o.speed, "speed", 1, "how much faster than the trace's clock")
	flags.Float64Var(&o.rate, "rate", 0, "requests a second, sent when they are due; 0: when the one before is answered")
	flags.StringVar(&o.path, "path", "/v1/chat/completions", "where to ask")
	flags.StringVar(&o.mark, "mark", string(token), "what stands in an answer once for each token")
	flags.BoolVar(&o.stream, "stream", false, "ask for streams")
	flags.Float64Var(&o.seconds, "seconds", 3, "how long new requests are sent")
	flags.Float64Var(&o.limit, "limit", 30, "seconds after that by which every request must have been answered")
	flags.Float64Var(&o.warmup, "warmup", 0.3, "seconds of one-token requests before that, not counted")
	_ = flags.Parse(arguments)

	var row []arrival
	if o.trace != "" {
		row = readTrace(o.trace, o.seconds*o.speed)
	} else if o.rate > 0 {
		row = evenly(o)
	}
	t := &tally{deadline: time.Now().Add(time.Duration((o.warmup + o.limit) * float64(time.Second))), report: report{Errors: map[string]int{}, LatencyUs: []int64{}, TTFTUs: []int64{}, TPOTUs: []int64{}, LongestGapUs: []int64{}}}
	begin := make(chan struct{})
	var warm, done sync.WaitGroup
	arrivals := make(chan arrival, len(row))
	for i := 0; i < o.connections; i++ {
		warm.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			c := &caller{options: o, tally: t, answer: answerState{tokens: &t.tokens, mark: []byte(o.mark), end: endOf(o.path)}}
			defer c.close()
			c.warm()
			warm.Done()
			<-begin
			if row != nil {
				c.follow(arrivals)
			} else {
				c.loop()
			}
		}()
	}
	warm.Wait()
	atomic.StoreInt64(&t.tokens, 0)
	fmt.Println("ready") // the bench reads the contender's CPU clock now, and then says go
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	started := time.Now()
	t.deadline = started.Add(time.Duration((o.seconds + o.limit) * float64(time.Second)))
	close(begin)
	if row != nil {
		feed(arrivals, row, started, o.speed)
	} else if o.requests == 0 {
		time.Sleep(time.Duration(o.seconds * float64(time.Second)))
		t.window(started)
	}
	done.Wait()
	if t.report.WindowRequests == 0 { // a replay, a number of requests, or nothing was completed in time
		t.window(started)
	}
	if unanswered := len(row) - int(t.requests) - t.failures; unanswered > 0 {
		t.report.Errors["never sent: all connections were waiting"] = unanswered
	}
	t.report.Requests, t.report.Tokens = t.requests, t.tokens
	_ = json.NewEncoder(os.Stdout).Encode(t.report)
}

// window notes what had been completed by now.
func (t *tally) window(started time.Time) {
	t.report.WindowRequests = atomic.LoadInt64(&t.requests)
	t.report.WindowTokens = atomic.LoadInt64(&t.tokens)
	t.report.WindowS = time.Since(started).Seconds()
}

// caller is one connection.
type caller struct {
	options
	tally      *tally
	connection net.Conn
	used       time.Time // last
	reader     *bufio.Reader
	answer     answerState
}

func (c *caller) warm() {
	request := c.request(1, 60)
	until := time.Now().Add(time.Duration(c.warmup * float64(time.Second)))
	for {
		_, _, err := c.send(request, 1)
		if (err != nil && c.failed(err)) || time.Now().After(until) {
			return
		}
	}
}

func (c *caller) loop() {
	request := c.request(c.tokens, c.promptBytes)
	until := time.Now().Add(time.Duration(c.seconds * float64(time.Second)))
	for i := 0; c.requests == 0 || i < c.requests; i++ {
		started := time.Now()
		if c.requests == 0 && started.After(until) {
			return
		}
		first, end, err := c.send(request, c.tokens)
		if err == nil {
			c.tally.good(end.Sub(started), first.Sub(started), &c.answer)
		} else if c.failed(err) {
			return
		}
	}
}

// failed counts a failure, drops the connection, and says whether to give up.
func (c *caller) failed(err error) bool {
	c.close()
	time.Sleep(10 * time.Millisecond)
	return c.tally.bad(err)
}

func (c *caller) close() {
	if c.connection != nil {
		c.connection.Close()
		c.connection = nil
	}
}

// request builds the bytes of one request.
func (c *caller) request(tokens, promptBytes int) []byte {
	prompt := strings.Repeat("word ", promptBytes/5+1)[:promptBytes]
	said, limit, further := fmt.Sprintf(`"messages":[{"role":"user","content":"%s"}]`, prompt), "max_tokens", ""
	if c.path == responsesPath {
		said, limit, further = fmt.Sprintf(`"input":"%s"`, prompt), "max_output_tokens", `,"store":false`
	}
	if c.stream {
		further += `,"stream":true`
		if c.path != messagesPath && c.path != responsesPath {
			further += `,"stream_options":{"include_usage":true}`
		}
	}
	body := fmt.Sprintf(`{"model":"%s",%s,"%s":%d%s}`, c.model, said, limit, tokens, further)
	headers := strings.ReplaceAll(c.headers, "\n", "\r\n")
	return []byte(fmt.Sprintf("POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"+
		"content-type: application/json\r\n%scontent-length: %d\r\n\r\n%s", c.path, c.port, headers, len(body), body))
}

// send sends one request and reads its answer. The times are those of the first token and of the answer's end.
func (c *caller) send(request []byte, tokens int) (first, end time.Time, err error) {
	if c.connection != nil && time.Since(c.used) > idleLimit {
		c.close()
	}
	defer func() { c.used = time.Now() }()
	if c.connection == nil {
		if c.connection, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port)); err != nil {
			c.connection = nil
			return
		}
		c.reader = bufio.NewReaderSize(c.connection, 64<<10)
	}
	_ = c.connection.SetDeadline(c.tally.deadline)
	if _, err = c.connection.Write(request); err != nil {
		return
	}
	h, err := readHead(c.reader)
	if err != nil {
		return
	}
	c.answer.reset()
	if err = readBody(c.reader, h, c.answer.take); err != nil {
		return
	}
	if h.closes || (!h.chunked && h.length < 0) {
		c.close()
	}
	return c.answer.first, time.Now(), c.answer.verdict(h, tokens, c.stream)
}

// answerState is what is kept of an answer while it arrives.
type answerState struct {
	tokens      *int64 // of all answers
	mark        []byte
	end         string // of a stream
	count       int
	first, last time.Time
	longestGap  time.Duration
	repeats     bool // the text has come, and now comes again
	tail        []byte
}

func (a *answerState) reset() {
	*a = answerState{tokens: a.tokens, mark: a.mark, end: a.end, tail: a.tail[:0]}
}

func (a *answerState) take(piece []byte) {
	said := a.unrepeated(piece)
	count := bytes.Count(said, a.mark) + a.across(said)
	if count > 0 {
		now := time.Now()
		if a.count == 0 {
			a.first = now
		} else if gap := now.Sub(a.last); gap > a.longestGap {
			a.longestGap = gap
		}
		a.last = now
		a.count += count
		atomic.AddInt64(a.tokens, int64(count))
	}
	if len(a.tail) > 4096 {
		a.tail = append(a.tail[:0], a.tail[len(a.tail)-512:]...)
	}
	if len(piece) > 2048 {
		piece = piece[len(piece)-2048:]
	}
	a.tail = append(a.tail, piece...)
}

// unrepeated returns what comes before a response's whole text, which is sent again when it has come in pieces.
func (a *answerState) unrepeated(piece []byte) []byte {
	if a.repeats {
		return nil
	}
	before := a.tail
	if len(before) > len(textDone) {
		before = before[len(before)-len(textDone):]
	}
	at := bytes.Index(append(append([]byte{}, before...), piece...), []byte(textDone))
	if at < 0 {
		return piece
	}
	a.repeats = true
	if at < len(before) {
		return nil
	}
	return piece[:at-len(before)]
}

// across counts the mark that begins in the pieces before and ends in this one.
func (a *answerState) across(piece []byte) int {
	n := len(a.mark) - 1
	if n == 0 {
		return 0
	}
	before, after := a.tail, piece
	if len(before) > n {
		before = before[len(before)-n:]
	}
	if len(after) > n {
		after = after[:n]
	}
	return bytes.Count(append(append([]byte{}, before...), after...), a.mark)
}

// verdict says what is wrong with the answer: nobody is fast by failing.
func (a *answerState) verdict(h head, tokens int, stream bool) error {
	if len(h.first) < 12 || h.first[9:12] != "200" {
		return fmt.Errorf("%s %.120s", h.first, a.tail)
	}
	if a.count != tokens {
		return fmt.Errorf("%d tokens instead of %d", a.count, tokens)
	}
	if stream && !bytes.Contains(a.tail, []byte(a.end)) {
		return fmt.Errorf("a stream without %s", a.end)
	}
	return nil
}
