//! Endpoints against a real server in this process, which is slow, cuts, refuses and lies.

mod server;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use porism_prover::complete::{Answer, Complete, CompleteError, Completion, Finish, Request};
use porism_prover::http::{Endpoint, Endpoints, Followed, HttpError, Key, Options};
use porism_prover::roles::{self, Role};
use serde_json::{Value, json};
use server::{Received, Reply, Server};

const SECRET: &str = "sk-abcdefghijklmnopqrstuvwxyz";

/// Waits that do not slow the tests down.
fn options() -> Options {
    Options {
        wait: Duration::from_millis(5),
        silence: Duration::from_secs(30),
        grace: Duration::from_millis(300),
        outage: Duration::from_secs(30),
        parallel: 4,
        ..Options::default()
    }
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint::new(&server.url(), "big-model", Some(Key::new(SECRET).unwrap())).unwrap()
}

fn endpoints(server: &Server, options: Options) -> Endpoints {
    Endpoints::new(vec![endpoint(server)], options)
}

fn request(ticket: u64, prompt: &str) -> Request {
    let key = roles::Key { problem: 0, round: 0, proof: 0, role: Role::Generate, reading: 0 };
    let (prompt, seed) = (prompt.to_owned(), 1000 + ticket);
    Request { ticket, key, prompt, seed, max_tokens: 99, temperature: 0.5, top_p: 0.95 }
}

/// What came, by ticket.
#[derive(Debug, Default)]
struct Outcome {
    answers: HashMap<u64, Answer>,
    notices: Vec<String>,
    broken: Option<String>,
}

impl Outcome {
    fn completion(&self, ticket: u64) -> &Completion {
        self.answers[&ticket].result.as_ref().unwrap()
    }

    fn lost(&self, ticket: u64) -> &str {
        &self.answers[&ticket].result.as_ref().unwrap_err().what
    }
}

/// Polls until so many answers are there or nothing works any more.
fn collect(complete: &mut Endpoints, count: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let until = Instant::now() + Duration::from_secs(60);
    while outcome.answers.len() < count {
        assert!(Instant::now() < until, "{outcome:?}");
        match complete.poll(Duration::from_millis(100)) {
            Ok(Some(answer)) => {
                assert!(outcome.answers.insert(answer.ticket, answer).is_none(), "answered twice");
            }
            Ok(None) => {}
            Err(CompleteError::Broken(error)) => {
                assert!(error.is::<HttpError>());
                outcome.broken = Some(error.to_string());
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    outcome.notices = complete.notices();
    outcome
}

/// One request, one outcome.
fn one(
    handler: impl Fn(&Received, &mut Reply) + Send + Sync + 'static,
    options: Options,
) -> (Outcome, Server) {
    let server = Server::new(handler);
    let mut complete = endpoints(&server, options);
    complete.submit(request(0, "Prove it."));
    (collect(&mut complete, 1), server)
}

/// A first good answer, so that the endpoint is known to work, and then what is tested.
fn after_a_good_one(
    handler: impl Fn(&Received, &mut Reply) + Send + Sync + 'static,
    options: Options,
) -> (Outcome, Server) {
    let server = Server::new(move |request, reply| match request.prompt() {
        "first" => reply.answer("good"),
        _ => handler(request, reply),
    });
    let mut complete = endpoints(&server, options);
    complete.submit(request(0, "first"));
    assert_eq!(collect(&mut complete, 1).completion(0).answer, "good");
    complete.submit(request(1, "second"));
    (collect(&mut complete, 1), server)
}

fn tries_of_the_second(server: &Server) -> usize {
    server.seen.requests().iter().filter(|request| request.prompt() == "second").count()
}

#[test]
fn what_was_heard_so_far_can_be_asked() {
    let server = Server::new(|_, reply| {
        reply.begin();
        reply.delta(&json!({"reasoning_content": "0123456789"}));
        reply.delta(&json!({"content": "01234567"}));
        reply.hang();
    });
    let mut endpoints = endpoints(&server, options());
    endpoints.submit(request(7, "a"));
    let until = Instant::now() + Duration::from_secs(60);
    // Estimated, until the endpoint says how many tokens it were.
    while endpoints.progress() != [(7, 5)] {
        assert!(Instant::now() < until, "{:?}", endpoints.progress());
        assert!(endpoints.poll(Duration::from_millis(5)).unwrap().is_none());
    }
    endpoints.cancel(7);
    assert!(endpoints.progress().is_empty());
}

#[test]
fn what_is_asked_is_sent_and_what_is_answered_is_heard() {
    let (outcome, server) = one(
        |_, reply| {
            reply.begin();
            reply.chunk(": waiting\n\n");
            reply.delta(&json!({"role": "assistant", "content": ""}));
            reply.delta(&json!({"reasoning_content": "Let me "}));
            reply.delta(&json!({"reasoning_content": "see."}));
            reply.delta(&json!({"content": "## Sol"}));
            reply.delta(&json!({"content": "ution"}));
            reply.end(Some((12, 34)));
        },
        options(),
    );
    let completion = outcome.completion(0);
    assert_eq!((completion.thinking.as_str(), completion.answer.as_str()), ("Let me see.", "## Solution"));
    assert_eq!((completion.prompt_tokens, completion.tokens, &completion.finish), (12, 34, &Finish::Stop));
    let served = completion.served.as_ref().unwrap();
    assert_eq!((served.endpoint.as_str(), served.estimated, served.tries), (server.url().as_str(), false, 1));
    let asked = &server.seen.requests()[0];
    assert!(asked.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("authorization").unwrap(), format!("Bearer {SECRET}"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(
        asked.body,
        json!({"model": "big-model", "messages": [{"role": "user", "content": "Prove it."}], "stream": true,
            "stream_options": {"include_usage": true}, "max_tokens": 99, "temperature": 0.5, "top_p": 0.95, "seed": 1000})
    );
    assert!(outcome.notices.is_empty());
}

#[test]
fn thinking_within_the_message_is_parted_from_the_answer() {
    let (outcome, _server) = one(
        |_, reply| {
            reply.begin();
            for piece in ["<th", "ink>So", " it is.</", "think>", "\n\nIt", " is."] {
                reply.delta(&json!({"content": piece}));
            }
            reply.end(None);
        },
        options(),
    );
    let completion = outcome.completion(0);
    assert_eq!((completion.thinking.as_str(), completion.answer.as_str()), ("So it is.", "It is."));
    assert!(completion.served.as_ref().unwrap().estimated);
    assert!(completion.tokens > 0 && completion.prompt_tokens > 0);
}

#[test]
fn an_endpoint_that_does_not_stream_is_understood() {
    let (outcome, _server) = one(
        |_, reply| {
            let message = json!({"role": "assistant", "reasoning": "hm", "content": "done"});
            reply.json(&json!({"choices": [{"index": 0, "message": message, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 6}}));
        },
        options(),
    );
    let completion = outcome.completion(0);
    assert_eq!((completion.thinking.as_str(), completion.answer.as_str()), ("hm", "done"));
    assert_eq!((completion.tokens, &completion.finish), (6, &Finish::Length));
}

#[test]
fn a_slow_answer_is_waited_for() {
    let (outcome, _server) = one(
        |_, reply| {
            reply.begin();
            for piece in ["a", "b", "c", "d"] {
                std::thread::sleep(Duration::from_millis(400));
                reply.delta(&json!({"content": piece}));
            }
            reply.end(None);
        },
        // Longer than any of the pauses, shorter than all of them.
        Options { silence: Duration::from_millis(1200), ..options() },
    );
    assert_eq!(outcome.completion(0).answer, "abcd");
}

#[test]
fn too_many_requests_come_back_when_they_may() {
    let (outcome, server) = one(
        |request, reply| match request.number {
            0 => reply.whole(
                "429 Too Many Requests",
                "Retry-After: 1\r\n",
                "{\"error\": {\"message\": \"slow down\"}}",
            ),
            _ => reply.answer("fine"),
        },
        options(),
    );
    assert_eq!(outcome.completion(0).answer, "fine");
    assert_eq!(outcome.completion(0).served.as_ref().unwrap().tries, 2);
    let asked = server.seen.requests();
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1), "it came back too soon");
    assert_eq!(asked[0].body, asked[1].body);
    assert!(outcome.notices[0].contains("429 Too Many Requests: slow down"), "{:?}", outcome.notices);
}

#[test]
fn one_who_is_told_to_wait_holds_the_others_back_too() {
    let server = Server::new(|request, reply| match request.number {
        0 => reply.whole("503 Service Unavailable", "Retry-After: 1\r\n", ""),
        _ => reply.answer("fine"),
    });
    let mut complete = endpoints(&server, Options { parallel: 1, ..options() });
    (0..3).for_each(|ticket| complete.submit(request(ticket, "p")));
    collect(&mut complete, 3);
    let asked = server.seen.requests();
    assert!(asked.len() == 4 && asked[1].at - asked[0].at >= Duration::from_secs(1));
}

#[test]
fn failures_of_the_server_and_cut_answers_are_tried_again() {
    let (outcome, server) = one(
        |request, reply| {
            match request.number {
            0 => reply.whole("500 Internal Server Error", "", "out of memory"),
            1 => {
                reply.begin();
                reply.delta(&json!({"content": "a beginning of forty characters or so ..."}));
            }
            // Without chunks nothing but the missing end tells that it was cut.
            2 => reply.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n"),
            3 => reply.raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"choices\": [{\"mess"),
            4 => reply.raw(""),
            5 => {
                reply.begin();
                reply.chunk("data: {\"error\": {\"message\": \"worker died\", \"code\": 500}}\n\n");
            }
            _ => reply.answer("whole"),
        }
        },
        options(),
    );
    assert_eq!(outcome.completion(0).answer, "whole");
    assert_eq!((outcome.completion(0).served.as_ref().unwrap().tries, server.seen.requests().len()), (7, 7));
    assert!((11..30).contains(&outcome.answers[&0].wasted), "{}", outcome.answers[&0].wasted);
    assert_eq!(outcome.notices.len(), 6);
    assert!(outcome.notices[0].contains("500 Internal Server Error: out of memory"), "{:?}", outcome.notices);
    assert!(outcome.notices[5].contains("worker died"), "{:?}", outcome.notices);
}

#[test]
fn an_answer_that_lacks_only_its_end_mark_is_whole() {
    let (outcome, server) = one(
        |_, reply| {
            reply.begin();
            reply.chunk(
                "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}, \"finish_reason\": \"stop\"}]}\n\n",
            );
        },
        options(),
    );
    assert_eq!((outcome.completion(0).answer.as_str(), server.seen.requests().len()), ("a", 1));
}

#[test]
fn what_is_no_answer_costs_its_attempt_after_a_few_tries() {
    type Case = (&'static str, fn(&mut Reply));
    let cases: [Case; 6] = [
        ("empty body", |reply| reply.whole("200 OK", "Content-Type: application/json\r\n", "")),
        ("no JSON", |reply| reply.whole("200 OK", "Content-Type: application/json\r\n", "{\"choices\": [")),
        ("no choice", |reply| reply.json(&json!({}))),
        ("text/html", |reply| reply.whole("200 OK", "Content-Type: text/html\r\n", "<p>Welcome")),
        ("no JSON", |reply| {
            reply.begin();
            reply.chunk("data: {\"choices\": [{]}\n\n");
        }),
        ("Hello", |reply| reply.whole("200 OK", "Content-Type: text/plain\r\n", "Hello!\n")),
    ];
    for (expected, handler) in cases {
        let (outcome, server) = after_a_good_one(move |_, reply| handler(reply), options());
        assert!(outcome.lost(1).contains(expected), "{expected}: {}", outcome.lost(1));
        assert!(outcome.lost(1).contains("3 tries") && outcome.broken.is_none());
        assert_eq!(tries_of_the_second(&server), 3, "{expected}");
    }
}

#[test]
fn an_empty_completion_is_an_answer_and_not_paid_for_twice() {
    let (outcome, server) = one(
        |_, reply| {
            reply.begin();
            reply.end(Some((3, 41)));
        },
        options(),
    );
    let completion = outcome.completion(0);
    assert_eq!((completion.answer.as_str(), completion.tokens, server.seen.requests().len()), ("", 41, 1));
}

#[test]
fn one_request_that_hangs_costs_its_attempt_only() {
    let patience = Options { silence: Duration::from_millis(1200), ..options() };
    type Silence = fn(&mut Reply);
    let silences: [Silence; 2] = [
        |reply| reply.hang(),
        |reply| {
            reply.begin();
            reply.delta(&json!({"content": "I begin"}));
            reply.hang();
        },
    ];
    for silence in silences {
        // The server is there: it answers others.
        let server = Server::new(move |request, reply| match request.prompt() {
            "hung" => silence(reply),
            _ => reply.answer("good"),
        });
        let mut complete = endpoints(&server, patience.clone());
        complete.submit(request(0, "hung"));
        let (mut ticket, mut answered, until) = (1, 0, Instant::now() + Duration::from_secs(60));
        let lost = loop {
            assert!(Instant::now() < until, "{:?}", complete.notices());
            // Whenever it has been silent for long somebody else is answered.
            if server.seen.requests().iter().filter(|request| request.prompt() == "hung").count() > answered {
                answered += 1;
                complete.submit(request(ticket, "good"));
                ticket += 1;
            }
            match complete.poll(Duration::from_millis(20)).unwrap() {
                Some(answer) if answer.ticket == 0 => break answer.result.unwrap_err(),
                _ => {}
            }
        };
        assert!(lost.what.contains("says nothing for 1.2 s") && lost.what.contains("3 tries"), "{lost}");
        assert!(lost.network, "it says nothing of the request");
    }
}

#[test]
fn a_server_that_was_stopped_ends_it_within_the_limit_and_costs_nothing() {
    for had_begun in [false, true] {
        let server = Server::new(move |request, reply| match request.prompt() {
            "good" => reply.answer("good"),
            _ => {
                if had_begun {
                    reply.begin();
                    reply.delta(&json!({"content": "I begin"}));
                }
                reply.hang();
            }
        });
        let mut complete = endpoints(&server, Options { silence: Duration::from_millis(900), ..options() });
        complete.submit(request(0, "good"));
        collect(&mut complete, 1);
        (1..9).for_each(|ticket| complete.submit(request(ticket, "p")));
        assert!(server.seen.wait_for(4));
        server.seen.set_deaf(true);
        let begin = Instant::now();
        let outcome = collect(&mut complete, 8);
        assert!(outcome.answers.is_empty(), "{outcome:?}");
        let words = outcome.broken.unwrap();
        assert!(words.contains("said nothing to any of them"), "{words}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}

#[test]
fn comments_are_news_and_no_answer() {
    let (outcome, server) = one(
        |_, reply| {
            reply.begin();
            for _ in 0..40 {
                reply.chunk(": still there\n\n");
                std::thread::sleep(Duration::from_millis(40));
            }
            reply.delta(&json!({"content": "at last"}));
            reply.end(None);
        },
        Options { silence: Duration::from_millis(500), ..options() },
    );
    assert_eq!((outcome.completion(0).answer.as_str(), server.seen.requests().len()), ("at last", 1));
}

#[test]
fn the_end_is_waited_for_with_a_clock() {
    // It says that it is over, and keeps the connection open without another word.
    let (outcome, server) = one(
        |_, reply| {
            reply.begin();
            reply.delta(&json!({"content": "whole"}));
            let event = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
            reply.chunk(&format!("data: {event}\n\n"));
            reply.hang();
        },
        Options { silence: Duration::from_millis(600), ..options() },
    );
    assert_eq!((outcome.completion(0).answer.as_str(), server.seen.requests().len()), ("whole", 1));
}

/// Answers so many at once; the others wait and hear nothing.
fn slots(count: usize, each: Duration) -> impl Fn(&Received, &mut Reply) + Send + Sync {
    let (free, turn) = (std::sync::Mutex::new(count), std::sync::Condvar::new());
    move |_, reply| {
        let mut left = turn.wait_while(free.lock().unwrap(), |free| *free == 0).unwrap();
        *left -= 1;
        drop(left);
        reply.begin();
        for _ in 0..4 {
            reply.delta(&json!({"content": "x"}));
            std::thread::sleep(each / 4);
        }
        reply.end(None);
        *free.lock().unwrap() += 1;
        turn.notify_one();
    }
}

#[test]
fn who_waits_for_a_turn_has_not_failed_and_slots_are_learnt() {
    let server = Server::new(slots(2, Duration::from_millis(800)));
    // The last one waits ten times as long as anybody may be silent.
    let patience = Options { silence: Duration::from_millis(500), parallel: 16, ..options() };
    let mut complete = endpoints(&server, patience);
    (0..16).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 16);
    assert!((0..16).all(|ticket| outcome.completion(ticket).answer == "xxxx"), "{outcome:?}");
    assert_eq!(server.seen.requests().len(), 16, "nobody was asked twice: {:?}", outcome.notices);
    // On a busy machine one turn may end and the next begin between two looks, and then they seem to be three.
    let learnt = |slots: usize| {
        let words = format!("works on {slots} at once");
        outcome.notices.iter().any(|notice| notice.contains(&words)) && complete.width() == slots + 1
    };
    assert!(learnt(2) || learnt(3), "{} at once: {:?}", complete.width(), outcome.notices);
}

#[test]
fn an_outage_costs_time_and_no_request() {
    let play = |request: &Received, reply: &mut Reply| match request.prompt() {
        "first" => reply.answer("good"),
        _ => {
            reply.begin();
            reply.delta(&json!({"content": "I begin"}));
            reply.hang();
        }
    };
    let server = Server::new(play);
    let port = server.port();
    let mut complete = Endpoints::new(vec![endpoint(&server)], options());
    complete.submit(request(0, "first"));
    collect(&mut complete, 1);
    (1..13).for_each(|ticket| complete.submit(request(ticket, "p")));
    assert!(server.seen.wait_for(4));
    // Killed: streams are cut, then connections refused, then it loads, then it is there.
    server.kill();
    let back = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        let loading = Server::at(port, |_, reply| {
            let words =
                json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}});
            reply.whole("503 Service Unavailable", "", &words.to_string());
        });
        std::thread::sleep(Duration::from_millis(700));
        loading.kill();
        Server::at(port, |_, reply| reply.answer("back"))
    });
    let outcome = collect(&mut complete, 12);
    let server = back.join().unwrap();
    assert!((1..13).all(|ticket| outcome.completion(ticket).answer == "back"), "{outcome:?}");
    assert_eq!(server.seen.requests().len(), 12);
    assert!(
        outcome.notices.iter().any(|words| words.contains("answers again after")),
        "{:?}",
        outcome.notices
    );
    assert!(
        (1..13).map(|ticket| outcome.answers[&ticket].wasted).sum::<u64>() > 0,
        "cut streams cost something"
    );
}

#[test]
fn an_outage_ends_when_its_time_is_over() {
    let loading = Server::new(|_, reply| reply.whole("503 Service Unavailable", "", "Loading model"));
    let mut complete = endpoints(&loading, Options { outage: Duration::from_millis(600), ..options() });
    (0..6).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 6);
    assert!(outcome.answers.is_empty());
    let words = outcome.broken.unwrap();
    assert!(words.contains("has been away for") && words.contains("Loading model"), "{words}");
    assert_eq!(outcome.notices.len(), 1, "{:?}", outcome.notices);
}

#[test]
fn one_dead_endpoint_of_three_starves_nobody() {
    let good = || Server::new(slots(4, Duration::from_millis(40)));
    let (one, two, three) = (good(), good(), good());
    let mut complete = Endpoints::new(vec![endpoint(&one), endpoint(&two), endpoint(&three)], options());
    (0..12).for_each(|ticket| complete.submit(request(ticket, "p")));
    collect(&mut complete, 12);
    let begin = Instant::now();
    (12..72).for_each(|ticket| complete.submit(request(ticket, "p")));
    let all_three = collect(&mut complete, 60);
    let alive = begin.elapsed();
    assert!(all_three.broken.is_none());
    two.kill();
    let begin = Instant::now();
    (100..160).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 60);
    assert!((100..160).all(|ticket| outcome.completion(ticket).answer == "xxxx"), "{outcome:?}");
    // Not a speed: without two thirds of the work going on it would take minutes.
    assert!(
        begin.elapsed() < 20 * alive + Duration::from_secs(5),
        "{:?} instead of {alive:?}",
        begin.elapsed()
    );
}

#[test]
fn a_stopped_endpoint_hands_its_requests_over() {
    let (one, two) =
        (Server::new(slots(4, Duration::from_millis(40))), Server::new(slots(4, Duration::from_millis(40))));
    let mut complete = Endpoints::new(vec![endpoint(&one), endpoint(&two)], options());
    (0..8).for_each(|ticket| complete.submit(request(ticket, "p")));
    collect(&mut complete, 8);
    two.seen.set_deaf(true);
    (10..50).for_each(|ticket| complete.submit(request(ticket, "p")));
    let begin = Instant::now();
    let outcome = collect(&mut complete, 40);
    assert!((10..50).all(|ticket| outcome.completion(ticket).answer == "xxxx"), "{outcome:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(25),
        "long before the silence of 30 s ends it: {:?}",
        begin.elapsed()
    );
}

#[test]
fn endpoints_come_and_go_with_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints");
    let (old, new) =
        (Server::new(|_, reply| reply.answer("old")), Server::new(|_, reply| reply.answer("new")));
    std::fs::write(&file, format!("# where it is\n\n{} # the first\n", old.url())).unwrap();
    let make = |url: &str| Endpoint::new(url, "big-model", None);
    let (followed, found) = Followed::open(&file, Box::new(make)).unwrap();
    assert_eq!(found.len(), 1);
    let mut complete = Endpoints::new(found, options()).following(followed);
    complete.submit(request(0, "p"));
    assert_eq!(collect(&mut complete, 1).completion(0).answer, "old");
    // It moved, and the old address is dead.
    old.kill();
    complete.submit(request(1, "p"));
    std::fs::write(&file, format!("{}\n", new.url())).unwrap();
    let outcome = collect(&mut complete, 1);
    assert_eq!(outcome.completion(1).answer, "new");
    assert_eq!(outcome.completion(1).served.as_ref().unwrap().endpoint, new.url());
    // What cannot be understood changes nothing.
    for nonsense in ["", "ftp://x\n", "# none\n"] {
        std::fs::write(&file, nonsense).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        complete.submit(request(2, "p"));
        let outcome = collect(&mut complete, 1);
        assert_eq!(outcome.completion(2).answer, "new");
        assert!(
            outcome.notices.iter().any(|words| words.contains("stay as they were")),
            "{:?}",
            outcome.notices
        );
    }
    assert!(Followed::open(&file, Box::new(make)).unwrap_err().contains("names no endpoint"));
    assert!(
        Followed::open(&folder.path().join("none"), Box::new(make)).unwrap_err().contains("cannot be read")
    );
}

#[test]
fn what_a_refusal_teaches_is_remembered() {
    type Want = fn(&Value) -> Option<&'static str>;
    let cases: [(Want, &str); 5] = [
        (
            |body| {
                (!body["temperature"].is_null() && !body["top_p"].is_null())
                    .then_some("give either temperature or top_p, not the two together")
            },
            "without top_p",
        ),
        (
            |body| (!body["temperature"].is_null()).then_some("temperature is fixed for this model"),
            "without a temperature",
        ),
        (
            |body| (!body["top_p"].is_null()).then_some("this model does not take the parameter top_p"),
            "without top_p",
        ),
        (
            |body| {
                (body["max_tokens"].as_u64() > Some(50)).then_some("max_tokens has to lie between 1 and 50")
            },
            "at most 50 tokens",
        ),
        (|body| (body["stream"] == true).then_some("streaming is not supported"), "without a stream"),
    ];
    for (want, expected) in cases {
        let server = Server::new(move |request, reply| match want(&request.body) {
            Some(words) => {
                reply.whole("400 Bad Request", "", &json!({"error": {"message": words}}).to_string());
            }
            None if request.body["stream"] == false => {
                reply.json(&json!({"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}));
            }
            None => reply.answer("fine"),
        });
        let mut complete = endpoints(&server, Options { parallel: 1, ..options() });
        (0..3).for_each(|ticket| complete.submit(request(ticket, "p")));
        let outcome = collect(&mut complete, 3);
        assert!((0..3).all(|ticket| outcome.completion(ticket).answer == "fine"), "{expected}: {outcome:?}");
        assert_eq!(server.seen.requests().len(), 4, "{expected}");
        assert!(outcome.notices.len() == 1 && outcome.notices[0].contains(expected), "{:?}", outcome.notices);
    }
}

#[test]
fn a_prompt_beyond_the_context_is_lost_with_its_reason() {
    let (outcome, server) = after_a_good_one(
        |_, reply| {
            let words =
                "request (3532 tokens) exceeds the available context size (2048 tokens), try increasing it";
            reply.whole(
                "400 Bad Request",
                "",
                &json!({"error": {"code": 400, "message": words}}).to_string(),
            );
        },
        options(),
    );
    let lost = outcome.answers[&1].result.as_ref().unwrap_err();
    assert_eq!((lost.context, lost.network), (Some(2048), false));
    assert!(lost.what.contains("larger one (llama-server -c"), "{lost}");
    assert_eq!(tries_of_the_second(&server), 2);
}

#[test]
fn a_wrong_model_or_key_behind_a_proxy_burns_nothing() {
    for (words, expected) in [
        ("Invalid model name passed in model=big-model. Call `/v1/models`", "does not answer for the model"),
        ("Authentication Error, no API key passed in", "does not let us in"),
        ("this server wants a field that nobody knows", "refuses what it is asked"),
    ] {
        let server = Server::new(move |_, reply| {
            reply.whole("400 Bad Request", "", &json!({"error": {"message": words}}).to_string());
        });
        let mut complete = endpoints(&server, options());
        (0..9).for_each(|ticket| complete.submit(request(ticket, "p")));
        let outcome = collect(&mut complete, 9);
        assert!(outcome.answers.is_empty(), "{outcome:?}");
        assert!(outcome.broken.as_ref().is_some_and(|broken| broken.contains(expected)), "{outcome:?}");
    }
}

#[test]
fn the_time_to_come_back_may_be_a_date() {
    let begin = std::time::SystemTime::now();
    let (outcome, server) = one(
        move |request, reply| match request.number {
            0 => {
                // Two seconds ahead of a clock that is years behind.
                let headers =
                    "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:39 GMT\r\n";
                reply.whole("429 Too Many Requests", headers, "");
            }
            _ => reply.answer("fine"),
        },
        options(),
    );
    assert_eq!((outcome.completion(0).answer.as_str(), server.seen.requests().len()), ("fine", 2));
    assert!(begin.elapsed().unwrap() >= Duration::from_millis(1900));
}

#[test]
fn a_refused_request_is_lost_at_once_and_the_next_one_is_not() {
    let server = Server::new(|request, reply| match request.prompt() {
        "long" => reply.whole("400 Bad Request", "", "{\"object\": \"error\", \"message\": \"too long\"}"),
        "huge" => reply.whole("413 Payload Too Large", "", "{\"detail\": \"too large\"}"),
        _ => reply.answer("fine"),
    });
    let mut complete = endpoints(&server, Options { parallel: 1, ..options() });
    for (ticket, prompt) in ["short", "long", "huge", "long", "long", "long", "short"].iter().enumerate() {
        complete.submit(request(ticket as u64, prompt));
    }
    let outcome = collect(&mut complete, 7);
    assert!(outcome.lost(1).contains("400 Bad Request: too long"), "{}", outcome.lost(1));
    assert!(outcome.lost(2).contains("too large"), "{}", outcome.lost(2));
    assert_eq!((outcome.completion(6).answer.as_str(), server.seen.requests().len()), ("fine", 7));
}

#[test]
fn what_an_older_endpoint_does_not_know_is_left_out() {
    let server = Server::new(|request, reply| {
        for field in ["stream_options", "seed"] {
            if !request.body[field].is_null() {
                let words = json!({"error": {"message": format!("unknown field `{field}`")}});
                return reply.whole("422 Unprocessable Entity", "", &words.to_string());
            }
        }
        reply.answer("fine");
    });
    let mut complete = endpoints(&server, options());
    (0..4).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 4);
    assert!((0..4).all(|ticket| outcome.completion(ticket).answer == "fine"));
    assert_eq!(outcome.notices.len(), 2, "{:?}", outcome.notices);
}

#[test]
fn a_limit_beyond_the_context_is_left_to_the_endpoint() {
    let server = Server::new(|request, reply| {
        let (long, limit) = (request.prompt() == "long", request.body["max_tokens"].as_u64());
        if long || limit.is_some_and(|limit| limit > 50) {
            let words = "max_tokens is too large: 99. This model's maximum context length is 50 tokens.";
            return reply.whole("400 Bad Request", "", &json!({"error": {"message": words}}).to_string());
        }
        reply.answer("fine");
    });
    let mut complete = endpoints(&server, options());
    complete.submit(request(0, "short"));
    complete.submit(Request { max_tokens: 40, ..request(1, "short") });
    let outcome = collect(&mut complete, 2);
    assert_eq!(
        (outcome.completion(0).answer.as_str(), outcome.completion(1).answer.as_str()),
        ("fine", "fine")
    );
    // A limit that fits is kept, and a prompt that does not fit is asked once more only.
    complete.submit(request(2, "long"));
    assert!(collect(&mut complete, 1).lost(2).contains("maximum context length"));
    let limits: Vec<Value> =
        server.seen.requests().iter().map(|request| request.body["max_tokens"].clone()).collect();
    assert_eq!(limits.iter().filter(|limit| limit.is_null()).count(), 2, "{limits:?}");
    assert_eq!(
        (limits.len(), limits.iter().filter(|limit| **limit == json!(40)).count()),
        (5, 1),
        "{limits:?}"
    );
}

#[test]
fn a_wrong_key_or_model_ends_it_before_anything_is_lost() {
    for (status, expected) in [
        ("401 Unauthorized", "does not let us in"),
        ("402 Payment Required", "does not let us in"),
        ("404 Not Found", "does not answer for the model `big-model`"),
        ("307 Temporary Redirect", "does not answer for the model `big-model`"),
    ] {
        let server = Server::new(move |_, reply| {
            let words = json!({"error": {"message": format!("no access with {SECRET}")}});
            reply.whole(status, "Location: http://127.0.0.1:1/\r\n", &words.to_string());
        });
        let mut complete = endpoints(&server, options());
        (0..9).for_each(|ticket| complete.submit(request(ticket, "p")));
        let outcome = collect(&mut complete, 9);
        assert!(outcome.answers.is_empty());
        let words = outcome.broken.unwrap();
        assert!(words.contains(expected) && words.contains(&status[..3]), "{words}");
        assert!(
            !words.contains("abcdefgh")
                && !format!("{:?} {complete:?}", outcome.notices).contains("abcdefgh")
        );
        assert!(server.seen.requests().len() <= 4, "nothing more is sent there");
    }
}

#[test]
fn where_nobody_listens_it_ends_soon() {
    let nobody = Endpoint::new("http://127.0.0.1:1", "m", None).unwrap();
    let mut complete = Endpoints::new(vec![nobody], options());
    complete.submit(request(0, "p"));
    let outcome = collect(&mut complete, 1);
    assert!(outcome.answers.is_empty());
    assert!(outcome.broken.unwrap().contains("cannot be reached"));
    assert_eq!(outcome.notices.len(), 1, "{:?}", outcome.notices);
}

#[test]
fn where_nothing_works_any_more_it_ends() {
    let server = Server::new(|request, reply| match request.number {
        0 => reply.answer("fine"),
        _ => reply.whole("500 Internal Server Error", "", "dead"),
    });
    let mut complete = endpoints(&server, Options { parallel: 1, tries: 2, ..options() });
    (0..20).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 20);
    assert_eq!(outcome.completion(0).answer, "fine");
    assert_eq!(outcome.answers.len(), 4, "{outcome:?}");
    assert!(outcome.broken.unwrap().contains("4 requests in a row came to nothing"));
}

#[test]
fn another_endpoint_takes_over() {
    let good = Server::new(|_, reply| reply.answer("fine"));
    let bad = Server::new(|_, reply| reply.whole("401 Unauthorized", "", ""));
    let mut complete = Endpoints::new(vec![endpoint(&bad), endpoint(&good)], options());
    assert_eq!(complete.width(), 8);
    (0..30).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 30);
    assert!((0..30).all(|ticket| outcome.completion(ticket).answer == "fine"));
    assert_eq!((good.seen.requests().len(), complete.width()), (30, 4));
    assert!(outcome.notices.iter().any(|words| words.contains("no more requests")), "{:?}", outcome.notices);
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let server = Server::new(|request, reply| {
        // The first three wait for each other: three are really under way at once.
        if request.number < 3 {
            let together = Instant::now() + Duration::from_secs(20);
            while reply.most_at_once() < 3 && Instant::now() < together {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        match request.number % 5 {
            0 => reply.whole("500 Internal Server Error", "", ""),
            1 => reply.begin(),
            _ => reply.answer("fine"),
        }
    });
    let mut complete = endpoints(&server, Options { parallel: 3, ..options() });
    (0..60).for_each(|ticket| complete.submit(request(ticket, "p")));
    let outcome = collect(&mut complete, 60);
    assert_eq!(outcome.answers.len(), 60);
    assert_eq!(server.seen.most_at_once(), 3);
}

#[test]
fn a_canceled_request_is_ended_and_its_place_is_free() {
    let server = Server::new(|request, reply| match request.prompt() {
        "for ever" => {
            reply.begin();
            reply.delta(&json!({"content": "and"}));
            reply.hang();
        }
        _ => reply.answer("fine"),
    });
    let mut complete = endpoints(&server, Options { parallel: 2, ..options() });
    for (ticket, prompt) in ["for ever", "for ever", "queued", "next"].iter().enumerate() {
        complete.submit(request(ticket as u64, prompt));
    }
    assert!(server.seen.wait_for(2));
    assert!(complete.poll(Duration::from_millis(10)).unwrap().is_none());
    for ticket in [0, 1, 2] {
        complete.cancel(ticket);
    }
    assert_eq!(
        (complete.canceled_tokens(), complete.canceled_tokens()),
        (2, 0),
        "what had come was paid for"
    );
    let outcome = collect(&mut complete, 1);
    assert_eq!(outcome.completion(3).answer, "fine");
    assert!(server.seen.wait_for(0), "the server was not told");
    assert!(complete.poll(Duration::from_millis(10)).unwrap().is_none());
    assert_eq!(server.seen.requests().len(), 3);
}

#[test]
fn the_end_of_the_program_ends_what_is_under_way() {
    let server = Server::new(|_, reply| reply.hang());
    let mut complete = endpoints(&server, options());
    (0..4).for_each(|ticket| complete.submit(request(ticket, "p")));
    assert!(server.seen.wait_for(4));
    drop(complete);
    assert!(server.seen.wait_for(0));
}

#[test]
fn an_endpoint_that_repeats_the_key_is_not_quoted() {
    let (outcome, _server) = after_a_good_one(
        |request, reply| match request.number {
            1 => {
                reply.begin();
                reply.chunk(&format!("data: {{\"oops\": {SECRET}\n\n"));
            }
            _ => {
                reply.begin();
                reply.delta(&json!({"reasoning": format!("the key {SECRET}")}));
                reply.delta(&json!({"content": format!("## Solution {SECRET}")}));
                reply.end(None);
            }
        },
        options(),
    );
    assert_eq!(outcome.completion(1).answer, "## Solution [key]");
    assert!(!format!("{outcome:?}").contains("abcdefgh"), "{outcome:?}");
    assert!(outcome.notices[0].contains("[key]"), "{:?}", outcome.notices);
}
