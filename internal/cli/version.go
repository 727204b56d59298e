package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// build is what this binary was made of.
type build struct {
	Version  string `json:"version"` // of the module, "dev" when it was built from a checkout
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the checkout had changes
	Time     string `json:"time,omitempty"`     // of the revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// readBuild asks the binary itself. Nothing has to be passed to the linker.
func readBuild() build {
	b := build{Version: "dev", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "vcs.time":
			b.Time = s.Value
		}
	}
	return b
}

func (b build) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "pelton %s", b.Version)
	if b.Revision != "" {
		fmt.Fprintf(&s, " (%.12s", b.Revision)
		if b.Modified {
			s.WriteString(", modified")
		}
		if b.Time != "" {
			s.WriteString(", " + b.Time)
		}
		s.WriteByte(')')
	}
	fmt.Fprintf(&s, " %s %s", b.Go, b.Platform)
	return s.String()
}

func (a *app) versionCmd() *cobra.Command {
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  needArgs(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if out.value == formatTable {
				if _, err := fmt.Fprintln(a.stdout, b); err != nil {
					return fmt.Errorf("write output: %w", err)
				}
				return nil
			}
			raw, err := json.Marshal(b)
			if err != nil {
				return fmt.Errorf("write version: %w", err)
			}
			return printJSON(a.stdout, out.value, raw)
		},
	}
	out.register(cmd)
	return cmd
}
