package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) queueSetCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
		unset []string
	)
	cmd := &cobra.Command{
		Use:   "set QUEUE [SETTING=VALUE...] [--unset SETTING]...",
		Short: "Change the settings of a queue",
		Long: `Change the settings of a queue; those that are not named stay as they are. null,
or --unset, restores a default. A queue that does not exist is made.

  max_running.PRIORITY  how many tasks of a priority run at a time, over all workers
  max_depth             how many ready tasks the queue holds before it takes no more
  lease                 how long a silent worker keeps a task, 1s to 1h
  max_attempts, timeout, retention
                        of tasks that do not say
  max_crashes           how often a worker may die with a task before it fails

Workers and producers follow within 2 seconds.

Exit codes: 0 set, 2 a setting is wrong.`,
		Example: `  pelton queue set emails max_running.low=4 lease=1m
  pelton queue set emails max_running.low=null --unset max_depth`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1, "the name of a queue"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			patch, err := settingsPatch(args[1:], unset)
			if err != nil {
				return err
			}
			q, err := c.queue(cmd.Context(), http.MethodPatch, args[0], "", nil, patch)
			if err != nil {
				return err
			}
			return a.printQueue(&out, q)
		}),
	}
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "restore the default of a `SETTING`; may be repeated")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// settingsPatch turns rate.limit=100 into {"rate":{"limit":100}}. Which settings
// there are, and what they may be, the server knows.
func settingsPatch(set, unset []string) ([]byte, error) {
	patch := make(map[string]any)
	for _, text := range set {
		name, value, found := strings.Cut(text, "=")
		if !found || name == "" || value == "" {
			return nil, usagef("%q is not SETTING=VALUE, such as lease=1m", clip(text, 100))
		}
		var v any = value
		switch {
		case value == "null":
			v = nil
		case wholeNumber.MatchString(value):
			v = json.RawMessage(value)
		}
		if err := place(patch, name, v); err != nil {
			return nil, err
		}
	}
	for _, name := range unset {
		if err := place(patch, name, nil); err != nil {
			return nil, err
		}
	}
	if len(patch) == 0 {
		return nil, usagef("give at least one SETTING=VALUE, or --unset SETTING")
	}
	body, err := json.Marshal(patch)
	if err != nil { // a number such as 007
		return nil, usagef("%s", errors.Unwrap(err))
	}
	return body, nil
}

// place puts a value where its dotted name says.
func place(into map[string]any, name string, value any) error {
	first, rest, nested := strings.Cut(name, ".")
	there, taken := into[first]
	inner, isObject := there.(map[string]any)
	switch {
	case first == "" || nested && rest == "":
		return usagef("%q is not the name of a setting", clip(name, 100))
	case taken && (!nested || !isObject):
		return usagef("%s is given twice", clip(first, 100))
	case !nested:
		into[first] = value
		return nil
	case !taken:
		inner = make(map[string]any)
		into[first] = inner
	}
	return place(inner, rest, value)
}

// settingLines are the settings in a queue's JSON, one a line, as "queue set" takes
// them.
func settingLines(queue []byte) ([][2]string, error) {
	var answer struct {
		Settings map[string]any `json:"settings"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(queue)))
	decoder.UseNumber()
	if err := decoder.Decode(&answer); err != nil {
		return nil, fmt.Errorf("the server's answer is not a queue: %w", err)
	}
	var lines [][2]string
	var add func(prefix string, members map[string]any)
	add = func(prefix string, members map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if inner, ok := members[name].(map[string]any); ok {
				add(prefix+name+".", inner)
				continue
			}
			lines = append(lines, [2]string{prefix + name, fmt.Sprint(members[name])})
		}
	}
	add("", answer.Settings)
	return lines, nil
}
