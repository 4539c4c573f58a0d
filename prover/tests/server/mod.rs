//! A small HTTP server in the test's own process, which can do everything wrong that servers do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// How many came before it.
    pub number: usize,
    pub at: Instant,
    pub head: String,
    pub body: Value,
}

impl Received {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn prompt(&self) -> &str {
        self.body["messages"][0]["content"].as_str().expect("a prompt")
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    requests: Mutex<Vec<Received>>,
    // For a kill, which ends all of them.
    streams: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
    deaf: AtomicBool,
}

impl Seen {
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }

    /// From now on connections are taken and nothing is answered, as by a process that was stopped; or no longer.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// The most requests that were being answered at once.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Waits until so many requests are being answered; false when they do not come.
    pub fn wait_for(&self, count: usize) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.now.load(Ordering::SeqCst) == count {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

/// Answers one request.
pub struct Reply {
    stream: TcpStream,
    seen: Arc<Seen>,
    counted: bool,
}

impl Reply {
    /// It is over as soon as the other side can know: whoever comes next is no third where two are allowed.
    fn over(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.seen.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub fn most_at_once(&self) -> usize {
        self.seen.most_at_once()
    }

    /// A whole answer with its length.
    pub fn whole(&mut self, status: &str, headers: &str, body: &str) {
        self.over();
        self.raw(&format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()));
    }

    pub fn json(&mut self, body: &Value) {
        self.whole("200 OK", "Content-Type: application/json\r\n", &body.to_string());
    }

    /// Begins a stream of chunks.
    pub fn begin(&mut self) {
        self.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    pub fn chunk(&mut self, text: &str) {
        self.raw(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    pub fn delta(&mut self, delta: &Value) {
        let event = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        self.chunk(&format!("data: {event}\n\n"));
    }

    /// Ends a stream as it should be ended.
    pub fn end(&mut self, usage: Option<(u64, u64)>) {
        let event = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        self.chunk(&format!("data: {event}\n\n"));
        if let Some((prompt, tokens)) = usage {
            let usage = json!({"prompt_tokens": prompt, "completion_tokens": tokens});
            self.chunk(&format!("data: {}\n\n", json!({"choices": [], "usage": usage})));
        }
        self.over();
        self.chunk("data: [DONE]\n\n");
        self.raw("0\r\n\r\n");
    }

    /// A good answer.
    pub fn answer(&mut self, text: &str) {
        self.begin();
        self.delta(&json!({"content": text}));
        self.end(Some((7, text.len() as u64)));
    }

    /// Bytes as they are; whether anybody still reads is none of our business.
    pub fn raw(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).and_then(|()| self.stream.flush());
    }

    /// Says nothing until the other side goes away.
    pub fn hang(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_secs(60)));
        let _ = self.stream.read(&mut [0]);
    }
}

/// Runs until it is dropped.
pub struct Server {
    port: u16,
    pub seen: Arc<Seen>,
}

impl Server {
    /// Answers every request with `handler`, each on a thread of its own.
    pub fn new(handler: impl Fn(&Received, &mut Reply) + Send + Sync + 'static) -> Self {
        Self::at(0, handler)
    }

    /// The same at a port that is known, where one was killed before.
    pub fn at(port: u16, handler: impl Fn(&Received, &mut Reply) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let (handler, shared) = (Arc::new(handler), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&shared));
                let stream = stream.unwrap();
                shared.streams.lock().unwrap().extend(stream.try_clone());
                std::thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self { port, seen }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends as a process does that is killed: streams are cut and connections refused.
    pub fn kill(&self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        for stream in self.seen.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Whoever binds the port next must find it free.
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn serve(stream: TcpStream, seen: &Arc<Seen>, handler: &(dyn Fn(&Received, &mut Reply) + Send + Sync)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let hear = || {
        while seen.deaf.load(Ordering::SeqCst) && !seen.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    hear();
    // Who asks what there is, or whether anybody is there, is no request.
    if head.starts_with("GET ") {
        let mut stream = stream;
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let mut body = vec![0; head.lines().find_map(length).unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(now, Ordering::SeqCst);
    let request = {
        let mut requests = seen.requests.lock().unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let request = Received { number: requests.len(), at: Instant::now(), head, body };
        requests.push(request.clone());
        request
    };
    let mut reply = Reply { stream, seen: Arc::clone(seen), counted: true };
    handler(&request, &mut reply);
    reply.over();
    let _ = reply.stream.shutdown(Shutdown::Both);
}
