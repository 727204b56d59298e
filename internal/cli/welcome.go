package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// isTerminal reports whether a person looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// welcome tells a person where everything is and what to type next.
func (s *serving) welcome(data string) {
	url := apiURL(s.flags.tls.scheme(), s.web.addr)
	lines := [][2]string{{"API", url}}
	if data != "" {
		lines = append(lines, [2]string{"Data", fmt.Sprintf("%s (to disk: %s)", data, s.flags.sync)})
	}
	switch {
	case s.brokerURL != "":
		lines = append(lines, [2]string{"Broker", s.brokerURL})
	default:
		lines = append(lines, [2]string{"Broker", "embedded; --nats-listen 127.0.0.1:4222 opens it for workers elsewhere"})
	}
	kind, payload := "demo.echo", `{"hello":"world"}`
	if s.mux == nil {
		lines = append(lines, [2]string{"Worker", "none; --demo or --exec KIND=CMD runs one"})
	} else {
		kinds := s.mux.Kinds()
		if !s.flags.handlers.demo {
			kind, payload = kinds[0], "{}"
		}
		lines = append(lines, [2]string{"Worker", fmt.Sprintf("%s; queue %s; %d at a time",
			strings.Join(kinds, ", "), strings.Join(s.slots.Queues, ", "), s.slots.Concurrency)})
	}
	curlAuth, cliURL := "", ""
	if s.flags.token != "" {
		curlAuth = ` -H "Authorization: Bearer $PELTON_TOKEN"`
	}
	if url != defaultURL {
		cliURL = " --url " + url
	}

	var b strings.Builder
	b.WriteString("\nPelton is ready.\n\n")
	for _, line := range lines {
		fmt.Fprintf(&b, "  %-7s %s\n", line[0], line[1])
	}
	fmt.Fprintf(&b, "\nTry in another terminal:\n\n"+
		"  curl '%s/tasks?wait=5s'%s -H 'Content-Type: application/json' \\\n"+
		"    -d '{\"kind\":\"%s\",\"payload\":%s}'\n"+
		"  pelton task enqueue %s '%s' --wait%s\n"+
		"  pelton queue list%s\n\nCtrl-C stops it.\n\n", url, curlAuth, kind, payload, kind, payload, cliURL, cliURL)
	_, _ = io.WriteString(s.app.stderr, b.String()) // nobody to tell if it fails
}
