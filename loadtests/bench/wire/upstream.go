package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// token is the text of every token. It occurs nowhere else in an answer, so that whoever counts it counts tokens.
const token = '~'

const chunkHead = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"

// The pace of streams in nanoseconds per token, 0: as fast as the connection takes them; and what an answer takes that
// is not streamed. Set by GET /pace?us=N&delay_us=N.
var paceNs, delayNs int64

var openaiToken = chunk(openaiEvent(`{"content":" ~"}`, "null"))
var anthropicToken = chunk(namedEvent("content_block_delta",
	`"index":0,"delta":{"type":"text_delta","text":" ~"}`))

var responsesToken = chunk(namedEvent("response.output_text.delta",
	`"item_id":"msg_1","output_index":0,"content_index":0,"delta":" ~","logprobs":[]`))

func runUpstream(arguments []string) {
	flags := flag.NewFlagSet("upstream", flag.ExitOnError)
	port := flags.Int("port", 0, "TCP port on 127.0.0.1")
	_ = flags.Parse(arguments)
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		fail(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		go serve(connection)
	}
}

func serve(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 64<<10)
	var body []byte
	for {
		request, err := readHead(reader)
		if err != nil {
			return
		}
		body = body[:0]
		if request.chunked || request.length > 0 {
			if err := readBody(reader, request, func(piece []byte) { body = append(body, piece...) }); err != nil {
				return
			}
		}
		if err := answer(connection, request, body); err != nil || request.closes {
			return
		}
	}
}

func answer(connection net.Conn, request head, body []byte) error {
	words := strings.SplitN(request.first, " ", 3)
	if len(words) != 3 {
		return fmt.Errorf("not a request line")
	}
	path := words[1]
	switch {
	case words[0] != "POST":
		if strings.HasPrefix(path, "/pace?us=") {
			pace, delay, _ := strings.Cut(strings.TrimPrefix(path, "/pace?us="), "&delay_us=")
			paceUs, _ := strconv.ParseInt(pace, 10, 64)
			delayUs, _ := strconv.ParseInt(delay, 10, 64)
			atomic.StoreInt64(&paceNs, paceUs*1000)
			atomic.StoreInt64(&delayNs, delayUs*1000)
		}
		return reply(connection, 200, `{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench"}]}`)
	case strings.HasSuffix(path, "/chat/completions"):
		return chat(connection, body)
	case strings.HasSuffix(path, "/messages") && streams(body):
		return messages(connection, body)
	case strings.HasSuffix(path, "/responses") && streams(body):
		return responses(connection, body)
	}
	return reply(connection, 404, `{"error":{"message":"not here","type":"invalid_request_error"}}`)
}

func chat(connection net.Conn, body []byte) error {
	tokens := number(body, "max_tokens", 16)
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}`,
		len(body)/4, len(body)/4+tokens, tokens)
	if !streams(body) {
		time.Sleep(time.Duration(atomic.LoadInt64(&delayNs)))
		return reply(connection, 200, `{"id":"chatcmpl-6b2fdb0c3f2c4d0f8a7a","object":"chat.completion",`+
			`"created":1750000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"`+
			strings.Repeat(" ~", tokens)+`"},"logprobs":null,"finish_reason":"stop"}],"usage":`+usage+`}`)
	}
	first := chunk(openaiEvent(`{"role":"assistant","content":""}`, "null"))
	last := openaiEvent(`{}`, `"stop"`)
	if bytes.Contains(body, []byte("include_usage")) {
		last += `data: {"id":"chatcmpl-6b2fdb0c3f2c4d0f8a7a","object":"chat.completion.chunk","created":1750000000,` +
			`"model":"bench","choices":[],"usage":` + usage + "}\n\n"
	}
	return stream(connection, first, openaiToken, tokens, chunk(last+"data: [DONE]\n\n"))
}

func messages(connection net.Conn, body []byte) error {
	tokens := number(body, "max_tokens", 16)
	first := namedEvent("message_start", fmt.Sprintf(`"message":{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message",`+
		`"role":"assistant","model":"bench","content":[],"stop_reason":null,"stop_sequence":null,`+
		`"usage":{"input_tokens":%d,"output_tokens":1}}`, len(body)/4)) +
		namedEvent("content_block_start", `"index":0,"content_block":{"type":"text","text":""}`)
	last := namedEvent("content_block_stop", `"index":0`) +
		namedEvent("message_delta", fmt.Sprintf(
			`"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}`, tokens)) +
		namedEvent("message_stop", "")
	return stream(connection, chunk(first), anthropicToken, tokens, chunk(last))
}

func responses(connection net.Conn, body []byte) error {
	tokens := number(body, "max_output_tokens", 16)
	text := strings.Repeat(" ~", tokens)
	part := func(text string) string {
		return `{"type":"output_text","text":"` + text + `","annotations":[],"logprobs":[]}`
	}
	item := func(status, content string) string {
		return `{"id":"msg_1","type":"message","role":"assistant","status":"` + status + `","content":[` + content + `]}`
	}
	whole := func(status, output, usage string) string {
		return `"response":{"id":"resp_6b2fdb0c3f2c4d0f8a7a","object":"response","created_at":1750000000,"model":"bench",` +
			`"error":null,"store":false,"status":"` + status + `","output":[` + output + `],"usage":` + usage + `}`
	}
	place := `"item_id":"msg_1","output_index":0,"content_index":0,`
	usage := fmt.Sprintf(`{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`,
		len(body)/4, tokens, len(body)/4+tokens)
	first := namedEvent("response.created", whole("in_progress", "", "null")) +
		namedEvent("response.in_progress", whole("in_progress", "", "null")) +
		namedEvent("response.output_item.added", `"output_index":0,"item":`+item("in_progress", "")) +
		namedEvent("response.content_part.added", place+`"part":`+part(""))
	last := namedEvent("response.output_text.done", place+`"text":"`+text+`","logprobs":[]`) +
		namedEvent("response.content_part.done", place+`"part":`+part(text)) +
		namedEvent("response.output_item.done", `"output_index":0,"item":`+item("completed", part(text))) +
		namedEvent("response.completed", whole("completed", item("completed", part(text)), usage))
	return stream(connection, chunk(first), responsesToken, tokens, chunk(last))
}

// stream writes each token by itself, as an engine does; token i is due i paces after the first.
func stream(connection net.Conn, first, each []byte, tokens int, last []byte) error {
	if _, err := connection.Write(append([]byte(chunkHead), first...)); err != nil {
		return err
	}
	pace := time.Duration(atomic.LoadInt64(&paceNs))
	started := time.Now()
	for i := 0; i < tokens; i++ {
		if pace > 0 {
			time.Sleep(time.Until(started.Add(time.Duration(i) * pace)))
		}
		if _, err := connection.Write(each); err != nil {
			return err
		}
	}
	_, err := connection.Write(append(last, "0\r\n\r\n"...))
	return err
}

func reply(connection net.Conn, status int, body string) error {
	_, err := fmt.Fprintf(connection,
		"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", status, len(body), body)
	return err
}

func openaiEvent(delta, finish string) string {
	return `data: {"id":"chatcmpl-6b2fdb0c3f2c4d0f8a7a","object":"chat.completion.chunk","created":1750000000,` +
		`"model":"bench","choices":[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":` + finish + "}]}\n\n"
}

// namedEvent writes an event of Messages or Responses, without a sequence number, so that every token is the same bytes.
func namedEvent(kind, members string) string {
	if members != "" {
		members = "," + members
	}
	return "event: " + kind + "\ndata: {\"type\":\"" + kind + "\"" + members + "}\n\n"
}

func chunk(data string) []byte {
	return []byte(fmt.Sprintf("%x\r\n%s\r\n", len(data), data))
}

func streams(body []byte) bool {
	return bytes.Contains(body, []byte(`"stream":true`)) || bytes.Contains(body, []byte(`"stream": true`))
}

// number finds a member's whole number without parsing the body.
func number(body []byte, member string, otherwise int) int {
	at := bytes.Index(body, []byte(`"`+member+`"`))
	if at < 0 {
		return otherwise
	}
	rest := bytes.TrimLeft(body[at+len(member)+2:], ": ")
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	value, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return otherwise
	}
	return value
}
