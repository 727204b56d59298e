package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// redisServer is a redis-server of our own with an append-only file that is synced
// every second, and no snapshots.
type redisServer struct {
	rounds
	process *child
	addr    string
}

func (r *redisServer) startRedis(ctx context.Context, dir string) error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("redis-server: %w (apt-get install redis-server)", errMissing)
	}
	r.next(dir)
	if err := os.Mkdir(r.data(), 0o750); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	r.addr = "127.0.0.1:" + strconv.Itoa(port)
	r.process, err = program{
		path: path, log: filepath.Join(dir, "redis.log"),
		args: []string{
			"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", r.data(),
			"--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
		},
	}.start(ctx)
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	defer client.Close()
	if err := r.process.until(ctx, func(ctx context.Context) error { return client.Ping(ctx).Err() }); err != nil {
		return errors.Join(err, r.process.stop())
	}
	return nil
}

func (r *redisServer) footprint() ([]int, string) { return []int{r.process.cmd.Process.Pid}, r.data() }

func (r *redisServer) stopRedis() error { return errors.Join(r.process.stop(), r.clean()) }
