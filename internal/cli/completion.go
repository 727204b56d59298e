package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
)

// completionTime is how long a shell may wait for words from the server.
const completionTime = time.Second

// lister gives words to complete, each perhaps with a tab and what it is.
type lister func(ctx context.Context, c *client) []string

// argument is what a verb takes.
type argument struct {
	list lister
	many bool // any number of them
}

// arguments are the verbs whose arguments the server knows.
func arguments() map[string]argument {
	running, waiting, dead := tasksOf("running"), tasksOf("scheduled", "retrying"), words("dead", deadWord)
	unfinished := both(running, waiting)
	queues, schedules, limits, locks := words("queues", nameWord), words("schedules", nameWord), words("limits", nameWord), words("locks", nameWord)
	return map[string]argument{
		"task get": {both(unfinished, dead), true}, "task wait": {unfinished, true}, "task watch": {unfinished, false},
		"task why": {unfinished, false}, "task cancel": {unfinished, true}, "task retry": {dead, true}, "task run": {waiting, true},
		"task enqueue": {kinds, false},
		"dead get":     {dead, true}, "dead retry": {dead, true}, "dead purge": {dead, true},
		"queue get": {queues, false}, "queue pause": {queues, false}, "queue resume": {queues, false}, "queue purge": {queues, false}, "queue set": {queues, false},
		"schedule get": {schedules, false}, "schedule set": {schedules, false}, "schedule pause": {schedules, false}, "schedule resume": {schedules, false},
		"schedule run": {schedules, false}, "schedule backfill": {schedules, false}, "schedule delete": {schedules, false},
		"limit set": {limits, false}, "limit delete": {limits, false},
		"lock get": {locks, false}, "lock release": {locks, false},
	}
}

// flagWords are the flags whose values the server knows.
func flagWords() map[string]lister {
	return map[string]lister{"queue": words("queues", nameWord), "kind": kinds}
}

// completeFromServer lets the shell complete names and ids. A server that is down or
// slow completes nothing, and says nothing.
func (a *app) completeFromServer(root *cobra.Command) {
	args, flags := arguments(), flagWords()
	eachCommand(root, func(cmd *cobra.Command) {
		if cmd.Flags().Lookup("url") == nil { // it does not call the API
			return
		}
		if arg, known := args[strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")]; known && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
				if len(given) > 0 && !arg.many {
					return nil, filesAfter(cmd)
				}
				found := slices.DeleteFunc(a.ask(cmd, arg.list), func(word string) bool {
					name, _, _ := strings.Cut(word, "\t")
					return slices.Contains(given, name)
				})
				return found, cobra.ShellCompDirectiveNoFileComp
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if list, known := flags[f.Name]; known {
				complete := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
					return a.ask(cmd, list), cobra.ShellCompDirectiveNoFileComp
				}
				_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // one that has its own words keeps them
			}
		})
	})
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml") // it is there
}

// filesAfter is what comes after the argument: a payload's file, or nothing.
func filesAfter(cmd *cobra.Command) cobra.ShellCompDirective {
	if cmd.Name() == "enqueue" {
		return cobra.ShellCompDirectiveDefault
	}
	return cobra.ShellCompDirectiveNoFileComp
}

// ask gets words by the settings that the command would have.
func (a *app) ask(cmd *cobra.Command, list lister) []string {
	quiet := *a
	quiet.stderr = io.Discard
	if _, err := quiet.configure(cmd); err != nil {
		return nil
	}
	// The verb's own are behind its RunE; these take their values over.
	var where clientFlags
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	where.register(flags)
	var bad error
	flags.VisitAll(func(f *pflag.Flag) {
		if given := cmd.Flags().Lookup(f.Name); given != nil && given.Changed {
			bad = errors.Join(bad, f.Value.Set(given.Value.String()))
		}
	})
	if bad != nil {
		return nil
	}
	c, err := quiet.client(where)
	if err != nil {
		return nil
	}
	defer c.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	return list(ctx, c)
}

// mostWords is how many words are offered of a list.
const mostWords = 200

// words are those of a list of the API.
func words(list string, word func(raw json.RawMessage) string) lister {
	return wordsWhere(list, nil, word)
}

func wordsWhere(list string, query url.Values, word func(raw json.RawMessage) string) lister {
	return func(ctx context.Context, c *client) []string {
		var found []string
		_ = c.eachItem(ctx, list, query, func(raw json.RawMessage) error { // what came before an error is good
			if w := word(raw); w != "" {
				found = append(found, w)
			}
			if len(found) >= mostWords {
				return io.EOF
			}
			return nil
		})
		return found
	}
}

func nameWord(raw json.RawMessage) string {
	var item struct {
		Name string `json:"name"`
	}
	_ = json.Unmarshal(raw, &item) // nothing is no word
	if strings.ContainsAny(item.Name, "\t\r\n") {
		return "" // a lock's name may be anything
	}
	return item.Name
}

func taskWord(raw json.RawMessage) string {
	var t pelton.Task
	if json.Unmarshal(raw, &t) != nil {
		return ""
	}
	return fmt.Sprintf("%s\t%s, %s", t.ID, printable(t.Kind, oneLine), t.State)
}

func deadWord(raw json.RawMessage) string {
	var l struct {
		ID   pelton.ID `json:"id"`
		Kind string    `json:"kind"`
	}
	if json.Unmarshal(raw, &l) != nil {
		return ""
	}
	return fmt.Sprintf("%s\t%s, dead", l.ID, printable(l.Kind, oneLine))
}

// tasksOf are the ids of tasks in some states; running ones are asked of the workers.
func tasksOf(states ...string) lister {
	return func(ctx context.Context, c *client) []string {
		var found []string
		for _, state := range states {
			if state == "running" {
				found = append(found, runningTasks(ctx, c)...)
				continue
			}
			found = append(found, wordsWhere("tasks", url.Values{"state": {state}}, taskWord)(ctx, c)...)
		}
		return found
	}
}

func runningTasks(ctx context.Context, c *client) []string {
	var found []string
	eachWorker(ctx, c, func(w pelton.Worker) {
		for _, id := range w.Running {
			found = append(found, fmt.Sprintf("%s\trunning on %s", id, printable(w.ID, oneLine)))
		}
	})
	return found
}

// kinds are those that a worker has handlers for.
func kinds(ctx context.Context, c *client) []string {
	known := make(map[string]bool)
	eachWorker(ctx, c, func(w pelton.Worker) {
		for _, kind := range w.Kinds {
			known[kind] = true
		}
	})
	return slices.Sorted(maps.Keys(known))
}

func eachWorker(ctx context.Context, c *client, visit func(pelton.Worker)) {
	_ = c.eachItem(ctx, "workers", nil, func(raw json.RawMessage) error { // what came before an error is good
		var w pelton.Worker
		if json.Unmarshal(raw, &w) == nil {
			visit(w)
		}
		return nil
	})
}

func both(lists ...lister) lister {
	return func(ctx context.Context, c *client) []string {
		var found []string
		for _, list := range lists {
			found = append(found, list(ctx, c)...)
		}
		return found
	}
}
