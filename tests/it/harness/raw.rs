//! A producer without a client library, whose messages' properties are bytes: libraries of many languages put any there, and the broker
//! passes them on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;
const FRAME_MAX: u32 = 131_072;

/// The properties of a persistent JSON message.
#[derive(Clone, Default)]
pub struct RawProperties {
    pub correlation_id: Option<Vec<u8>>,
    pub reply_to: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
    pub expiration: Option<Vec<u8>>,
    /// The entries of the table, without its length.
    pub headers: Option<Vec<u8>>,
}

impl RawProperties {
    fn bytes(&self) -> Vec<u8> {
        let (mut flags, mut bytes) = (0u16, Vec::new());
        let mut put = |bit: u16, value: Option<Vec<u8>>| {
            if let Some(value) = value {
                flags |= 1 << (15 - bit);
                bytes.extend(value);
            }
        };
        let text = |value: &Option<Vec<u8>>| value.as_deref().map(short);
        put(0, Some(short(b"application/json")));
        put(2, self.headers.as_deref().map(long));
        put(3, Some(vec![2]));
        put(5, text(&self.correlation_id));
        put(6, text(&self.reply_to));
        put(7, text(&self.expiration));
        put(8, text(&self.message_id));
        [&flags.to_be_bytes()[..], &bytes].concat()
    }
}

/// A text with its length before it, in one byte.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text].concat()
}

/// Bytes with their length before them, in four bytes.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a length");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A connection with one channel, whose messages are confirmed one by one.
pub struct RawProducer(TcpStream);

impl RawProducer {
    pub async fn connect(port: u16, vhost: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let mut this = Self(stream.expect("the broker is there"));
        this.write(b"AMQP\x00\x00\x09\x01".to_vec()).await;
        this.expect(10, 10).await;
        let login = [
            long(b""),
            short(b"PLAIN"),
            long(b"\0guest\0guest"),
            short(b"en_US"),
        ];
        this.method(0, 10, 11, &login.concat()).await;
        this.expect(10, 30).await;
        let tune = [
            &2047u16.to_be_bytes()[..],
            &FRAME_MAX.to_be_bytes(),
            &[0, 0],
        ];
        this.method(0, 10, 31, &tune.concat()).await;
        let open = [short(vhost.as_bytes()), short(b""), vec![0]];
        this.method(0, 10, 40, &open.concat()).await;
        this.expect(10, 41).await;
        this.method(1, 20, 10, &short(b"")).await;
        this.expect(20, 11).await;
        this.method(1, 85, 10, &[0]).await;
        this.expect(85, 11).await;
        this
    }

    /// Publishes a message to a queue and waits until the broker has it.
    pub async fn publish(&mut self, queue: &str, properties: &RawProperties, body: &[u8]) {
        let to = [vec![0, 0], short(b""), short(queue.as_bytes()), vec![0]];
        self.method(1, 60, 40, &to.concat()).await;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0], &size[..], &properties.bytes()].concat();
        self.frame(HEADER, 1, &header).await;
        self.frame(BODY, 1, body).await;
        self.expect(60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head = [&[kind][..], &channel.to_be_bytes()].concat();
        self.write([head, long(payload), vec![END]].concat()).await;
    }

    async fn write(&mut self, bytes: Vec<u8>) {
        self.0.write_all(&bytes).await.expect("the broker reads");
    }

    /// Waits for a method; fails where another one comes.
    async fn expect(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.expect("a frame");
        let [_, _, _, length @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
        self.0.read_exact(&mut payload).await.expect("all of it");
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        let text = String::from_utf8_lossy(&payload);
        assert_eq!(payload[..4], wanted, "the broker answers: {text}");
    }
}
