//! Owns which jobs are traced, and the spans of one job.
//!
//! Promises that a trace whose producer samples it is followed, that other jobs are drawn by a share, and that a job which
//! isn't traced costs nothing but the draw. A span holds names, counts and times, never a payload.
//!
//! Source of the header's form: W3C Trace Context, <https://www.w3.org/TR/trace-context/>.

use super::metrics::{Metrics, TraceOutcome};
use rand::Rng;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Mutex, mpsc};

/// Jobs whose spans may wait to be sent.
const WAITING: usize = 2_048;

/// Headers of the W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// The header `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a header; nothing where it isn't one.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = hex_byte(parts.next()?)?;
        let mut trace_id = [0; 16];
        let mut span_id = [0; 8];
        for (text, bytes) in [
            (parts.next()?, trace_id.as_mut_slice()),
            (parts.next()?, span_id.as_mut_slice()),
        ] {
            // Upper case isn't allowed, and hex would take it.
            if text.bytes().any(|b| b.is_ascii_uppercase()) {
                return None;
            }
            hex::decode_to_slice(text, bytes).ok()?;
        }
        let flags = hex_byte(parts.next()?)?;
        let more = parts.next().is_some();
        let zero = trace_id == [0; 16] || span_id == [0; 8];
        // Version 255 is forbidden; only later versions than 0 may have more parts.
        if version == 0xff || (version == 0 && more) || zero {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

fn hex_byte(text: &str) -> Option<u8> {
    // A sign isn't a digit, and the number's own reader would take it.
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_hex = text.len() == 2 && text.bytes().all(is_digit);
    is_hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

/// Longest headers that are kept, by W3C's form: the first has 55 characters in its first version.
const MAX_PARENT_BYTES: usize = 255;
const MAX_STATE_BYTES: usize = 512;

/// What of a trace goes on with a job: its headers, where they are what they should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceContext<'a> {
    pub parent: Option<&'a str>,
    /// Only with a parent.
    pub state: Option<&'a str>,
}

/// The headers of a trace that are no rubbish.
pub fn context<'a>(parent: Option<&'a str>, state: Option<&'a str>) -> TraceContext<'a> {
    let is_sound = |text: &&str| {
        text.len() <= MAX_PARENT_BYTES
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && TraceParent::parse(text).is_some()
    };
    let is_list = |text: &&str| {
        let is_pair = |pair: &str| pair.trim().is_empty() || pair.contains('=');
        text.len() <= MAX_STATE_BYTES
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
            && text.split(',').all(is_pair)
    };
    let parent = parent.filter(is_sound);
    TraceContext {
        parent,
        state: state.filter(|text| parent.is_some() && is_list(text)),
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
}

/// The attributes of a span, by name.
pub type Attributes = Vec<(&'static str, Value)>;

/// A part of a job's time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub id: [u8; 8],
    pub name: &'static str,
    pub begun: SystemTime,
    pub ended: SystemTime,
    pub attributes: Attributes,
}

/// Who asked for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A queue's message.
    Consumer,
    /// An HTTP request.
    Server,
}

/// The spans of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    pub trace_id: [u8; 16],
    /// The span of whoever posted the job.
    pub parent: Option<[u8; 8]>,
    pub kind: Kind,
    pub root: Span,
    pub children: Vec<Span>,
    /// Why the job failed, if it did.
    pub error: Option<String>,
}

/// A traced job under way.
#[derive(Debug)]
pub struct Trace {
    tree: Tree,
    /// One moment by both clocks.
    now: (Instant, SystemTime),
}

impl Trace {
    fn at(&self, moment: Instant) -> SystemTime {
        let (instant, system) = self.now;
        match moment.checked_duration_since(instant) {
            Some(later) => system + later,
            None => system - instant.saturating_duration_since(moment),
        }
    }

    /// Adds a part of the job's time.
    pub fn span(
        &mut self,
        name: &'static str,
        begun: Instant,
        ended: Instant,
        attributes: Attributes,
    ) {
        let span = Span {
            id: rand::rng().random(),
            name,
            begun: self.at(begun),
            ended: self.at(ended),
            attributes,
        };
        self.tree.children.push(span);
    }

    /// Adds the parts of a batch's time that began at `begun`.
    pub fn stages(&mut self, begun: Instant, stages: &Stages, hits: u32, misses: u32) {
        let number = |n: u32| Value::Number(i64::from(n));
        let [looked_up, scored, stored] = [stages.looked_up, stages.scored, stages.stored];
        let found = vec![("kiln.hits", number(hits))];
        self.span("look_up", begun, begun + looked_up, found);
        if misses > 0 {
            let scored_here = vec![("kiln.misses", number(misses))];
            self.span("model", begun + looked_up, begun + scored, scored_here);
        }
        self.span("store", begun + scored, begun + stored, Vec::new());
    }

    /// Records an attribute of the whole job.
    pub fn record(&mut self, name: &'static str, value: Value) {
        self.tree.root.attributes.push((name, value));
    }

    /// Calls the job failed.
    pub fn failed(&mut self, reason: &str) {
        self.tree.error = Some(reason.to_owned());
    }
}

/// When a batch had come how far, from its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// It was known which inputs are cached.
    pub looked_up: Duration,
    /// The others had their scores.
    pub scored: Duration,
    /// All rows were committed.
    pub stored: Duration,
}

/// Traced jobs, on their way to the collector; one task at a time takes them.
#[derive(Debug)]
pub struct Traced(pub(super) Mutex<mpsc::Receiver<Tree>>);

/// Draws jobs to trace, and hands their spans on.
#[derive(Clone)]
pub struct Tracer {
    queue: Option<mpsc::Sender<Tree>>,
    share: f64,
    metrics: Metrics,
}

impl Tracer {
    /// Traces nothing.
    pub fn off(metrics: Metrics) -> Self {
        Self {
            queue: None,
            share: 0.0,
            metrics,
        }
    }

    /// Traces a share of the jobs, from 0 to 1; what it hands on is heard at the receiver.
    pub fn new(share: f64, metrics: Metrics) -> (Self, Traced) {
        let (queue, heard) = mpsc::channel(WAITING);
        let tracer = Self {
            queue: Some(queue),
            share,
            metrics,
        };
        (tracer, Traced(Mutex::new(heard)))
    }

    /// Whether any job may be traced.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Begins to trace a job that was received at `begun`, if it is one to be traced.
    pub fn begin(
        &self,
        name: &'static str,
        kind: Kind,
        begun: Instant,
        header: Option<&str>,
    ) -> Option<Trace> {
        self.queue.as_ref()?;
        let parent = header.and_then(TraceParent::parse);
        let mut rng = rand::rng();
        let wanted = match parent {
            Some(parent) => parent.sampled,
            None => rng.random::<f64>() < self.share,
        };
        if !wanted {
            return None;
        }
        let now = (Instant::now(), SystemTime::now());
        let mut trace = Trace {
            tree: Tree {
                trace_id: parent.map_or_else(|| rng.random(), |parent| parent.trace_id),
                parent: parent.map(|parent| parent.span_id),
                kind,
                root: Span {
                    id: rng.random(),
                    name,
                    begun: now.1,
                    ended: now.1,
                    attributes: Vec::new(),
                },
                children: Vec::new(),
                error: None,
            },
            now,
        };
        trace.tree.root.begun = trace.at(begun);
        Some(trace)
    }

    /// Ends a job's trace. Where spans can't be sent as fast as they come, it is dropped and counted.
    pub fn end(&self, mut trace: Trace) {
        trace.tree.root.ended = trace.at(Instant::now());
        let Some(queue) = &self.queue else { return };
        if queue.try_send(trace.tree).is_err() {
            self.metrics.traces(TraceOutcome::Dropped, 1);
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_the_standard_says() {
        let parent = TraceParent::parse(HEADER).expect("a header");
        assert_eq!(
            hex::encode(parent.trace_id),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(hex::encode(parent.span_id), "00f067aa0ba902b7");
        assert!(parent.sampled);
        for (bad, good) in [
            ("", false),
            ("00-1-2-01", false),
            (&HEADER.replace("00-4", "ff-4"), false),
            (&HEADER.to_uppercase(), false),
            (&HEADER.replace("-01", "-+1"), false),
            (&HEADER.replace("00-4", "+0-4"), false),
            (
                &HEADER.replace("00f067aa0ba902b7", "0000000000000000"),
                false,
            ),
            (&format!("{HEADER}-more"), false),
            (&format!("{HEADER}-more").replace("00-4", "01-4"), true),
            (&HEADER.replace("-01", "-00"), true),
        ] {
            assert_eq!(TraceParent::parse(bad).is_some(), good, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "\\PC{0,80}") {
            let _any = TraceParent::parse(&header);
        }
    }

    #[test]
    fn the_producer_decides_and_else_the_share() {
        let begin = |share: f64, header: Option<&str>| {
            let (tracer, _heard) = Tracer::new(share, Metrics::new());
            let trace = tracer.begin("job", Kind::Consumer, Instant::now(), header);
            trace.map(|trace| trace.tree)
        };
        let followed = begin(0.0, Some(HEADER)).expect("sampled");
        assert_eq!(
            followed.parent.map(hex::encode).as_deref(),
            Some("00f067aa0ba902b7")
        );
        assert!(begin(1.0, Some(&HEADER.replace("-01", "-00"))).is_none());
        assert!(begin(0.0, None).is_none());
        assert!(begin(1.0, Some("rubbish")).expect("drawn").parent.is_none());
        assert!(!Tracer::off(Metrics::new()).is_on());
    }

    #[test]
    fn spans_lie_within_their_job() {
        let (tracer, traced) = Tracer::new(1.0, Metrics::new());
        let mut heard = traced.0.into_inner();
        let begun = Instant::now();
        let mut trace = tracer
            .begin("job", Kind::Server, begun, None)
            .expect("drawn");
        let stages = Stages {
            looked_up: Duration::from_nanos(10),
            scored: Duration::from_nanos(30),
            stored: Duration::from_nanos(60),
        };
        trace.stages(begun, &stages, 3, 1);
        tracer.end(trace);
        let tree = heard.try_recv().expect("sent");
        let names: Vec<&str> = tree.children.iter().map(|span| span.name).collect();
        assert_eq!(names, ["look_up", "model", "store"]);
        for pair in tree.children.windows(2) {
            assert_eq!(pair[0].ended, pair[1].begun);
        }
        assert_eq!(tree.children[0].begun, tree.root.begun);
        assert!(tree.root.ended >= tree.root.begun);
    }
}
