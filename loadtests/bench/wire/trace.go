package main

import (
	"encoding/csv"
	"os"
	"strconv"
	"time"
)

const bytesPerToken = 4 // a prompt token, as English text has it

// arrival is a request of the trace: when it came, on the trace's clock, and its sizes in tokens.
type arrival struct {
	at                        time.Duration
	due                       time.Time
	contextTokens, generation int
}

// skippedSeconds are the trace's quiet start: a fifth of its usual rate.
const skippedSeconds = 60

// readTrace reads the rows of some seconds of the trace, on the trace's own clock.
func readTrace(path string, seconds float64) []arrival {
	file, err := os.Open(path)
	if err != nil {
		fail(err)
	}
	defer file.Close()
	reader := csv.NewReader(file)
	if _, err := reader.Read(); err != nil { // TIMESTAMP,ContextTokens,GeneratedTokens
		fail(err)
	}
	var rows []arrival
	var zero time.Time
	for {
		fields, err := reader.Read()
		if err != nil {
			return rows
		}
		at, err := time.Parse("2006-01-02 15:04:05.9999999", fields[0])
		if err != nil {
			fail(err)
		}
		if zero.IsZero() {
			zero = at
		}
		offset := at.Sub(zero) - skippedSeconds*time.Second
		if offset < 0 {
			continue
		}
		if offset.Seconds() > seconds {
			return rows
		}
		contextTokens, _ := strconv.Atoi(fields[1])
		generation, _ := strconv.Atoi(fields[2])
		rows = append(rows, arrival{at: offset, contextTokens: contextTokens, generation: generation})
	}
}

// evenly makes arrivals of one size at one distance from another.
func evenly(o options) []arrival {
	rows := make([]arrival, int(o.rate*o.seconds))
	for i := range rows {
		at := time.Duration(float64(i) / o.rate * float64(time.Second))
		rows[i] = arrival{at: at, contextTokens: o.promptBytes / bytesPerToken, generation: o.tokens}
	}
	return rows
}

// feed hands each arrival out when it is due, whether or not the earlier ones have been answered.
func feed(arrivals chan<- arrival, rows []arrival, started time.Time, speed float64) {
	for _, row := range rows {
		row.due = started.Add(time.Duration(float64(row.at) / speed))
		time.Sleep(time.Until(row.due))
		arrivals <- row
	}
	close(arrivals)
}

// follow sends arrivals as they come. Times count from when a request was due, so that waiting for a free connection
// is waiting for the contender.
func (c *caller) follow(arrivals <-chan arrival) {
	for row := range arrivals {
		first, end, err := c.send(c.request(row.generation, row.contextTokens*bytesPerToken), row.generation)
		if err == nil {
			c.tally.good(end.Sub(row.due), first.Sub(row.due), &c.answer)
		} else if c.failed(err) {
			return
		}
	}
}
