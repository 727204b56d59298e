package cli

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The commands of the page on security, and its flags, are there.
func TestCommandsOfTheSecurityPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^(?:[A-Z_]+=\S+ )*pelton ([^#\n>&]+)`)
	found := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for _, line := range command.FindAllStringSubmatch(block[1], -1) {
			found++
			a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
			cmd, rest, err := a.root().Find(strings.Fields(strings.ReplaceAll(line[1], "'", "")))
			if err != nil || !cmd.Runnable() || cmd.HasSubCommands() {
				t.Errorf("pelton %s: %v", line[1], err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("pelton %s: %v", line[1], err)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d commands were found", found)
	}
}
