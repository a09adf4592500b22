package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
)

// head is what the bench needs of the first lines of an HTTP/1.1 message.
type head struct {
	first   string // request line or status line
	length  int64  // -1: no Content-Length
	chunked bool
	closes  bool // the sender closes the connection after this message
}

var errChunk = errors.New("broken chunk")

// readHead reads up to and including the empty line.
func readHead(r *bufio.Reader) (head, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return head{}, err
	}
	h := head{first: string(bytes.TrimRight(line, "\r\n")), length: -1}
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return head{}, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return h, nil
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			return head{}, errors.New("a header without a colon")
		}
		name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if h.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return head{}, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			h.chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("connection")):
			h.closes = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// readBody hands on a message's body in the pieces in which it arrives. A piece is valid during the call only.
func readBody(r *bufio.Reader, h head, take func([]byte)) error {
	if !h.chunked {
		return readBytes(r, h.length, take)
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 64)
		if err != nil || size < 0 {
			return errChunk
		}
		if size > 0 {
			if err := readBytes(r, size, take); err != nil {
				return err
			}
		}
		end, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimRight(end, "\r\n")) != 0 {
			return errChunk
		}
		if size == 0 {
			return nil
		}
	}
}

// readBytes hands on count bytes; count -1: all until the connection ends.
func readBytes(r *bufio.Reader, count int64, take func([]byte)) error {
	for count != 0 {
		if _, err := r.Peek(1); err != nil {
			if count < 0 && err == io.EOF {
				return nil
			}
			return err
		}
		size := r.Buffered()
		if count > 0 && int64(size) > count {
			size = int(count)
		}
		piece, _ := r.Peek(size)
		take(piece)
		_, _ = r.Discard(size)
		if count > 0 {
			count -= int64(size)
		}
	}
	return nil
}
