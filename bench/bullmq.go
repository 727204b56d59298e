package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed bullmq.mjs
var bullScript []byte

// What npm installs below the temporary folder of a run.
const (
	bullPackage  = "bullmq@6.7.0"
	redisPackage = "ioredis@5.11.1" // BullMQ's optional client
)

// bullMQ is BullMQ on Node, with its defaults: a finished task is kept. A Node
// process of ours enqueues, since there is no client for Go.
type bullMQ struct {
	redisServer
	node      string
	installed bool

	driver  *child
	answers chan bullAnswer
}

type bullAnswer struct {
	Ready  bool  `json:"ready"`
	Sent   int   `json:"sent"`
	Micros int64 `json:"micros"`
}

type bullCommand struct {
	Op      string `json:"op"`
	Callers int    `json:"callers"`
	N       int    `json:"n"`
	Ms      int64  `json:"ms"` // how long it may take; of paced, the gap
	Size    int    `json:"size"`
}

// install gets the package, once.
func (b *bullMQ) install(ctx context.Context, dir string) (err error) {
	if b.installed {
		return nil
	}
	if b.node, err = exec.LookPath("node"); err != nil {
		return fmt.Errorf("node: %w (apt-get install nodejs npm)", errMissing)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("npm: %w (apt-get install npm)", errMissing)
	}
	if err := os.WriteFile(filepath.Join(dir, "bullmq.mjs"), bullScript, 0o600); err != nil {
		return err
	}
	installing, err := program{
		path: npm, args: []string{"install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", bullPackage, redisPackage},
		dir: dir, log: filepath.Join(dir, "npm.log"),
	}.start(ctx)
	if err != nil {
		return err
	}
	late := time.NewTimer(2 * time.Minute)
	defer late.Stop()
	select {
	case <-installing.done:
	case <-late.C:
		return fmt.Errorf("%s: %w: %w", bullPackage, errMissing, errors.Join(errors.New("npm takes too long"), installing.stop()))
	}
	if err := installing.failure(); err != nil {
		return fmt.Errorf("%s: %w: %w", bullPackage, errMissing, err)
	}
	b.installed = true
	return nil
}

func (b *bullMQ) start(ctx context.Context, dir string) (err error) {
	if err := b.install(ctx, dir); err != nil {
		return err
	}
	if err := b.startRedis(ctx, dir); err != nil {
		return err
	}
	answers := make(chan bullAnswer, 1)
	b.answers = answers
	p := b.program("sender", func(line string) {
		var a bullAnswer
		if json.Unmarshal([]byte(line), &a) == nil {
			answers <- a
		}
	}, "send", b.port())
	if b.driver, err = p.start(ctx); err != nil {
		return errors.Join(err, b.stopRedis())
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if _, err := b.answer(ctx); err != nil {
		return errors.Join(err, b.stop())
	}
	return nil
}

func (b *bullMQ) port() string { return b.addr[strings.LastIndexByte(b.addr, ':')+1:] }

func (b *bullMQ) program(log string, line func(string), args ...string) program {
	return program{path: b.node, args: append([]string{"bullmq.mjs"}, args...), dir: b.dir, log: filepath.Join(b.dir, log+".log"), line: line}
}

// answer waits for the sender's next line.
func (b *bullMQ) answer(ctx context.Context) (bullAnswer, error) {
	select {
	case a := <-b.answers:
		return a, nil
	case <-b.driver.done:
		return bullAnswer{}, errors.Join(errors.New("the sender ended"), b.driver.failure())
	case <-ctx.Done():
		return bullAnswer{}, context.Cause(ctx)
	}
}

func (b *bullMQ) ask(ctx context.Context, c bullCommand) (int, time.Duration, error) {
	line, err := json.Marshal(c)
	if err != nil {
		return 0, 0, err
	}
	if _, err := io.WriteString(b.driver.stdin, string(line)+"\n"); err != nil {
		return 0, 0, err
	}
	a, err := b.answer(ctx)
	return a.Sent, time.Duration(a.Micros) * time.Microsecond, err
}

func (b *bullMQ) enqueue(ctx context.Context, l load) (int, time.Duration, error) {
	return b.ask(ctx, bullCommand{Op: "enqueue", Callers: l.callers, N: l.n, Ms: l.within.Milliseconds()})
}

func (b *bullMQ) batch(ctx context.Context, l load) (int, time.Duration, error) {
	return b.ask(ctx, bullCommand{Op: "batch", Callers: 1, N: l.n, Ms: l.within.Milliseconds(), Size: batchSize})
}

func (b *bullMQ) paced(ctx context.Context, n int, gap time.Duration) error {
	_, _, err := b.ask(ctx, bullCommand{Op: "paced", N: n, Ms: gap.Milliseconds()})
	return err
}

func (b *bullMQ) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return c.join(ctx, processes, func(i int, line func(string)) (program, error) {
		return b.program("worker-"+strconv.Itoa(i), line, "work", b.port(), strconv.Itoa(workerSlots)), nil
	})
}

func (b *bullMQ) stop() error { return errors.Join(b.driver.stop(), b.stopRedis()) }
