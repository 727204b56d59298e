// What bench asks of BullMQ. `node bullmq.mjs work PORT SLOTS` handles tasks and
// reports them as crew.go's report says; `node bullmq.mjs send PORT` takes one command
// a line on stdin and answers each with a line. Both end when stdin does.
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';

// The package is installed below the working folder, not beside this file.
const { Queue, Worker } = createRequire(process.cwd() + '/')('bullmq');

const [role, port, slots] = process.argv.slice(2);
const connection = { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
const micros = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const print = (line) => process.stdout.write(line + '\n');
const pad = (head) => ({ ...head, data: 'x'.repeat(128 - JSON.stringify({ ...head, data: '' }).length) });

// An array of nanoseconds in JSON; a number of JavaScript cannot hold them.
const nanos = (list) => '[' + list.map((us) => us + '000').join(',') + ']';

async function work() {
  let count = 0, first = 0, last = 0, latencies = [], changed = false;
  const worker = new Worker('bench', async (job) => {
    last = micros();
    if (count++ === 0) first = last;
    if (job.data.t) latencies.push(last - job.data.t);
    changed = true;
  }, { connection, concurrency: Number(slots) });
  worker.on('error', (err) => { console.error(err); process.exit(1); });
  const report = () => {
    if (!changed) return;
    print(`{"count":${count},"first":${first}000,"last":${last}000,"latencies":${nanos(latencies)}}`);
    changed = false;
    latencies = [];
  };
  const timer = setInterval(report, 5);
  process.stdin.resume();
  process.stdin.on('end', async () => {
    clearInterval(timer);
    await worker.close();
    report();
    process.exit(0);
  });
}

// repeat has callers call until n tasks are sent or the time is over.
async function repeat({ callers, n, ms }, size, call) {
  const began = performance.now();
  let left = n, sent = 0;
  await Promise.all(Array.from({ length: callers }, async () => {
    while (left > 0 && performance.now() - began < ms) {
      left -= size;
      await call();
      sent += size;
    }
  }));
  return { sent, micros: Math.round((performance.now() - began) * 1000) };
}

async function send() {
  const queue = new Queue('bench', { connection });
  queue.on('error', (err) => { console.error(err); process.exit(1); });
  await queue.waitUntilReady();
  const plain = pad({});
  const commands = {
    enqueue: (c) => repeat(c, 1, () => queue.add('noop', plain)),
    batch: (c) => repeat(c, c.size, () => queue.addBulk(Array.from({ length: c.size }, () => ({ name: 'noop', data: plain })))),
    paced: async ({ n, ms }) => {
      const began = performance.now();
      const calls = [];
      for (let i = 0; i < n; i++) {
        const due = began + (i + 1) * ms;
        await new Promise((done) => setTimeout(done, due - performance.now()));
        calls.push(queue.add('noop', pad({ t: micros() })));
      }
      await Promise.all(calls);
      return { sent: n, micros: Math.round((performance.now() - began) * 1000) };
    },
  };
  print('{"ready":true}');
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    print(JSON.stringify(await commands[command.op](command)));
  }
  process.exit(0);
}

await (role === 'work' ? work() : send());
