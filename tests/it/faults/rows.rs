//! The faults, and what comes of each.

use super::node::{End, Fault};
use super::row::{Ask, Expected, Row, five, lost, passes, same, says};

const LINES: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const LINE: &str = "f\r\n{\"done\":false}\n\r\n";
const EVENT: &str = "a\r\ndata: {}\n\n\r\n";
const WELL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1,2]";
const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\n[1,2]";

/// All of them.
pub fn all() -> Vec<Row> {
    [
        nodes(),
        ends_before_an_answer(),
        silences(),
        broken_answers(),
        nonsense(),
        odd_answers(),
        uploads(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn nodes() -> Vec<Row> {
    let unreachable = |name, fault| Row {
        alone: Expected::Refused(503),
        only_holder: Expected::Refused(503),
        ..lost(name, fault)
    };
    vec![
        // The first of all, since it takes the time that the proxy gives it.
        lost(
            "reads nothing of a long request",
            Fault::Early("", End::Hold),
        )
        .asking(Ask::Large),
        unreachable("connection refused", Fault::Refuses),
        unreachable("a name without an address", Fault::Nameless),
        // Waiting is right where nobody else can: it may come back.
        same(
            "takes connections, never reads a long request",
            Fault::Deaf,
            Expected::Hangs,
        )
        .asking(Ask::Large),
    ]
}

fn ends_before_an_answer() -> Vec<Row> {
    vec![
        lost("reset before any byte", says("", End::Reset)),
        lost("closed before any byte", says("", End::Close)),
        lost("half a head", says("HTTP/1.1 200 OK\r\ncont", End::Close)),
        lost(
            "half a head, reset",
            says("HTTP/1.1 200 OK\r\ncont", End::Reset),
        ),
        same(
            "closed before any byte, not to be repeated",
            says("", End::Close),
            Expected::Refused(502),
        )
        .asking(Ask::Once),
        same(
            "reset before any byte, not to be repeated",
            says("", End::Reset),
            Expected::Refused(502),
        )
        .asking(Ask::Once),
        // The fault of the moment and nobody's: it goes out once more on a fresh connection.
        same(
            "closed before any byte, reused connection",
            Fault::OnReuse(End::Close),
            Expected::Served,
        )
        .unblamed(),
        same(
            "reset before any byte, reused connection",
            Fault::OnReuse(End::Reset),
            Expected::Served,
        )
        .unblamed(),
    ]
}

fn silences() -> Vec<Row> {
    const IDLE: &str = "timeouts.stream_idle = \"300ms\"";
    vec![
        same(
            "silent before the head",
            says("", End::Hold),
            Expected::Hangs,
        )
        .unblamed(),
        same(
            "silent in the head",
            says("HTTP/1.1 200 OK\r\ncont", End::Hold),
            Expected::Hangs,
        )
        .unblamed(),
        same(
            "silent after the head",
            says(LINES, End::Hold),
            Expected::Broken("{\"error\":\"backend a fell silent"),
        )
        .with(IDLE),
        same(
            "silent in a stream",
            says(format!("{LINES}{LINE}"), End::Hold),
            Expected::Broken("{\"done\":false}\n{\"error\":\"backend a fell silent"),
        )
        .with(IDLE),
        passes(
            "a head that drips",
            Fault::Drips("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1,2]"),
            200,
            "[1,2]",
        ),
        passes(
            "a body that drips",
            Fault::Drips(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n[\r\n2\r\n1,\r\n2\r\n2]\r\n0\r\n\r\n",
            ),
            200,
            "[1,2]",
        ),
    ]
}

fn broken_answers() -> Vec<Row> {
    const RECORD: &str = "{\"error\":\"backend a broke off";
    const EVENT_RECORD: &str = "data: {\"error\":{";
    let half = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}",
        "x".repeat(50)
    );
    vec![
        lost("a head and no byte of a body", says(LINES, End::Close)),
        lost(
            "a head and no byte of a body, reset",
            says(LINES, End::Reset),
        ),
        lost(
            "a head with a length and no byte of a body",
            says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", End::Close),
        ),
        lost(
            "a head and a chunk's size",
            says(format!("{LINES}f\r\n"), End::Close),
        ),
        lost(
            "a head and no size where a chunk's should be",
            says(format!("{LINES}xyz\r\n"), End::Hold),
        ),
        same(
            "a head and no byte of a body, not to be repeated",
            says(LINES, End::Close),
            Expected::Broken(RECORD),
        )
        .asking(Ask::Once),
        same(
            "closed between chunks",
            says(format!("{LINES}{LINE}"), End::Close),
            Expected::Broken(RECORD),
        ),
        same(
            "closed in a chunk",
            says(format!("{LINES}f\r\n{{\"do"), End::Close),
            Expected::Broken(RECORD),
        ),
        same(
            "closed between events",
            says(format!("{EVENTS}{EVENT}"), End::Close),
            Expected::Broken(EVENT_RECORD),
        )
        .asking(Ask::Events),
        same(
            "reset in a stream",
            says(format!("{LINES}{LINE}"), End::Reset),
            Expected::Broken(RECORD),
        ),
        same(
            "reset between events",
            says(format!("{EVENTS}{EVENT}"), End::Reset),
            Expected::Broken(EVENT_RECORD),
        )
        .asking(Ask::Events),
        same(
            "no size where a chunk's should be",
            says(format!("{LINES}{LINE}xyz\r\n"), End::Hold),
            Expected::Broken(RECORD),
        ),
        same(
            "half of the length it told",
            says(half, End::Close),
            Expected::Short("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ),
        same(
            "no length, reset",
            says(
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n{}\n",
                End::Reset,
            ),
            Expected::Broken(RECORD),
        ),
    ]
}

/// What is no answer at all. The connection is destroyed, or those rows would leave a descriptor behind.
fn nonsense() -> Vec<Row> {
    let many = "x: 1\r\n".repeat(1000);
    let head = |field: &str| format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n[1,2]");
    let with = |name, text: String| lost(name, says(text, End::Hold));
    vec![
        with("garbage", "\0\u{7f}SSH-2.0-OpenSSH\r\n\r\n".to_owned()),
        lost("an answer in HTTP/0.9", says("hello world\n", End::Close)),
        with(
            "a header of 64 KB",
            five(&format!("x: {}\r\n", "x".repeat(64 << 10))),
        ),
        with(
            "a header of 1 MB",
            five(&format!("x: {}\r\n", "x".repeat(1 << 20))),
        ),
        with("a thousand header fields", five(&many)),
        with(
            "a switch of protocols",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
                .to_owned(),
        ),
        with(
            "20,000 times 102, and then 200",
            format!(
                "{}{}",
                "HTTP/1.1 102 Processing\r\n\r\n".repeat(20_000),
                five("")
            ),
        ),
        with("two lengths", five("content-length: 4\r\n")),
        with("a length below zero", head("content-length: -5")),
        with("a length that is no number", head("content-length: five")),
        with(
            "a coding that nobody asked for",
            head("transfer-encoding: gzip"),
        ),
        with(
            "a coding below the chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\n[1,2]\r\n0\r\n\r\n"
                .to_owned(),
        ),
        with("a folded header", five("x: a\r\n b\r\n")),
        with("a space before the colon", five("x : a\r\n")),
        with("a zero byte in a value", five("x: a\0b\r\n")),
        with(
            "status 99",
            "HTTP/1.1 99 X\r\ncontent-length: 5\r\n\r\n[1,2]".to_owned(),
        ),
        with(
            "status 999",
            "HTTP/1.1 999 X\r\ncontent-length: 5\r\n\r\n[1,2]".to_owned(),
        ),
    ]
}

/// Answers that are odd and can be used.
fn odd_answers() -> Vec<Row> {
    let good = five("");
    let chunked = "5\r\n[1,2]\r\n0\r\n\r\n";
    let with = |name, text: String| passes(name, says(text, End::Close), 200, "[1,2]");
    // Nothing is left for the node to do: if it is let go, then because the proxy does not trust it any more.
    let distrusted = |name, text: String| passes(name, says(text, End::Hold), 200, "[1,2]");
    vec![
        distrusted("more bytes than it told", format!("{good}12345")),
        distrusted(
            "a second answer that nobody asked for",
            format!("{good}{}", five("x-secret: 1\r\n")),
        ),
        with(
            "100 and then 200",
            format!("HTTP/1.1 100 Continue\r\n\r\n{good}"),
        ),
        with(
            "103 and then 200",
            format!("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n{good}"),
        ),
        with(
            "60 times 102, and then 200",
            format!("{}{good}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(60)),
        ),
        with(
            "a length next to chunks",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"
            ),
        ),
        with("the same length twice", five("content-length: 5\r\n")),
        passes(
            "no length, closed",
            says("HTTP/1.1 200 OK\r\n\r\n[1,2]", End::Close),
            200,
            "[1,2]",
        ),
        passes(
            "an answer in HTTP/1.0",
            says("HTTP/1.0 200 OK\r\n\r\n[1,2]", End::Close),
            200,
            "[1,2]",
        ),
        distrusted(
            "an answer in HTTP/1.0 with a length",
            five("").replace("HTTP/1.1", "HTTP/1.0"),
        ),
        passes(
            "204 with a body",
            says(
                "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n[1,2]",
                End::Hold,
            ),
            204,
            "",
        ),
        passes(
            "304 with a body",
            says(
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n[1,2]",
                End::Hold,
            ),
            304,
            "",
        ),
        with("lines that end in LF alone", five("").replace("\r\n", "\n")),
        with(
            "words for the next hop",
            five(
                "connection: X-Secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nproxy-connection: keep-alive\r\ntrailer: x\r\nupgrade: x\r\n",
            ),
        ),
    ]
}

/// Answers that come before the request was read.
fn uploads() -> Vec<Row> {
    let early = |name, text, status, end| {
        passes(name, Fault::Early(text, end), status, "[1,2]").asking(Ask::Upload)
    };
    vec![
        early(
            "413 before an upload's end, closed",
            TOO_LARGE,
            413,
            End::Close,
        ),
        early(
            "413 before an upload's end, reset",
            TOO_LARGE,
            413,
            End::Reset,
        ),
        early(
            "413 before an upload's end, kept open",
            TOO_LARGE,
            413,
            End::Hold,
        ),
        early(
            "200 before an upload's end, kept open",
            WELL,
            200,
            End::Hold,
        ),
    ]
}
