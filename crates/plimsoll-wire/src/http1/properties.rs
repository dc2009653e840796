//! Properties of all messages: no panic, and the framing parsed is the framing written, wherever bytes are cut.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::body::{BodyReader, Framing, MalformedBody, write_chunk_head, write_last_chunk};
use super::request::{self, Forwarding, RequestLimits};
use super::response::{self, Delivery, Persistence, ResponseRewrite};
use super::target::Method;
use super::{HeaderEdits, HeaderSlots, MAX_HEADERS};

const LIMITS: RequestLimits = RequestLimits { target_bytes: 8192, head_bytes: 65_536, headers: 100 };

const fn slots<'b>() -> HeaderSlots<'b> {
    [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS]
}

/// Generates header lines; many frame, route or nominate, and most are well formed.
fn lines() -> impl Strategy<Value = String> {
    let names = select(vec![
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "Expect",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "Via",
        "TE",
        "X-Any",
        "Cookie",
        "x",
        "Accept",
        "Trailer",
        "Content-Length ",
        "",
    ]);
    let values = prop_oneof![
        select(vec![
            "a",
            "5",
            "0",
            "+5",
            "5, 5",
            "chunked",
            "Chunked",
            "gzip, chunked",
            "close",
            "keep-alive, x-any",
            "upgrade",
            "websocket",
            "h2c",
            "100-continue",
            "1.2.3.4",
            "",
            " \t ",
            "application/json",
            "host, te",
        ])
        .prop_map(str::to_owned),
        "[ -~\t]{0,20}",
        "(?s).{0,6}",
    ];
    let colons = select(vec![":", ": ", ":\t", " : ", ""]);
    let ends = select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "]);
    let line = (names, colons, values, ends)
        .prop_map(|(name, colon, value, end)| [name, colon, &value, end].concat());
    vec(line, 0..8).prop_map(|lines| lines.concat())
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let starts = select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /a?b HTTP/1.1\r\nHost: a\r\n",
        "GET http://b:1?c HTTP/1.1\r\nHost: a\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.0\r\n",
        "HEAD / HTTP/1.1\n",
        "\r\nPUT /x HTTP/1.1\r\n",
    ]);
    let sound = (starts, lines()).prop_map(|(start, lines)| format!("{start}{lines}\r\nbody").into_bytes());
    prop_oneof![4 => sound, 1 => vec(any::<u8>(), 0..200)]
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    let starts = select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 \r\n",
        "HTTP/1.1 304\r\n",
        "HTTP/1.1 100 C\r\n",
        "HTTP/1.1 101 S\r\n",
        "HTTP/1.1 599 x\n",
        "\r\nHTTP/1.1 500 y\r\n",
        "HTTP/1.1 99 z\r\n",
    ]);
    let sound = (starts, lines()).prop_map(|(start, lines)| format!("{start}{lines}\r\nbody").into_bytes());
    prop_oneof![4 => sound, 1 => vec(any::<u8>(), 0..200)]
}

/// Generates chunked bodies, valid or nearly so.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (vec(any::<u8>(), 0..40), select(vec!["\r\n", ";a=b\r\n", " \r\n", "\n", "x\r\n"]), 0..20_u8)
        .prop_map(|(data, line, luck)| {
            let line = if luck > 1 { "\r\n" } else { line };
            [format!("{:x}{line}", data.len()).as_bytes(), &data, b"\r\n"].concat()
        });
    let ends = select(vec![
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nHost: z\r\nY: 1\r\n\r\nGET /",
        "0\n\n",
        "",
        "0\r\nbad\r\n\r\n",
    ]);
    let sound = (vec(chunk, 0..6), ends).prop_map(|(chunks, end)| [chunks.concat(), end.into()].concat());
    prop_oneof![4 => sound, 1 => vec(select(b"0123456789abcdefF\r\n; :x\0".to_vec()), 0..60)]
}

/// Decodes `wire` in pieces. Returns the data, the trailers, the bytes consumed and whether the body is complete.
fn read(
    framing: Framing,
    wire: &[u8],
    cuts: &[usize],
) -> Result<(Vec<u8>, Vec<u8>, usize, bool), MalformedBody> {
    let mut reader = BodyReader::new(framing);
    let (mut data, mut used, mut at) = (Vec::new(), 0, 0);
    for cut in cuts.iter().chain([&wire.len()]) {
        let mut piece = wire[at..(at + cut).min(wire.len())].to_vec();
        at += piece.len();
        let decoded = reader.decode(&mut piece)?;
        assert!(reader.is_done() || decoded.consumed == piece.len(), "bytes left although more are needed");
        data.extend_from_slice(&piece[decoded.data]);
        used += decoded.consumed;
        if reader.is_done() {
            break;
        }
    }
    Ok((data, reader.trailers().to_vec(), used, reader.is_done()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_written_with_the_framing_it_was_parsed_with(bytes in requests(), trusted: bool, via: bool) {
        let mut first = slots();
        if let Ok(Some((head, headers))) = request::parse(&bytes, &mut first, &LIMITS) {
            let (forwarding, edits) = (Forwarding { client: None, scheme: "http", certificate: None, trusted, via }, HeaderEdits::default());
            let mut out = Vec::new();
            request::write_head(&mut out, &bytes, &head, headers, forwarding, &edits, "pool");
            let mut second = slots();
            let again = request::parse(&out, &mut second, &LIMITS);
            let Ok(Some((again, headers))) = again else {
                return Err(TestCaseError::fail(format!("{:?} became {:?}", show(&bytes), show(&out))));
            };
            prop_assert_eq!(again.framing, head.framing, "{}", show(&out));
            prop_assert_eq!((again.method, again.len), (head.method, out.len()), "{}", show(&out));
            prop_assert_eq!(again.target.path(), head.target.path());
            prop_assert_eq!(again.upgrade, head.upgrade);
            prop_assert_eq!(again.expects_continue, head.expects_continue);
            let host: &[u8] = if head.host.is_empty() { b"pool" } else { head.host };
            prop_assert_eq!((again.host, again.is_http10), (host, false));
            let hosts = headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host")).count();
            prop_assert_eq!(hosts, 1);
        }
    }

    #[test]
    fn a_response_is_written_with_the_framing_it_was_parsed_with(bytes in responses(), head_only: bool, is_http10: bool) {
        let method = if head_only { Method::Head } else { Method::Get };
        let mut first = slots();
        if let Ok(Some((head, headers))) = response::parse(&bytes, &mut first, method) {
            let delivery = response::delivery(head.framing, is_http10);
            let edits = HeaderEdits::default();
            let mut out = Vec::new();
            let hop = ResponseRewrite { delivery, persistence: Persistence::Implicit, edits: &edits, via: false, content_type: None, hides_load: false };
            response::write_head(&mut out, &bytes, &head, headers, hop);
            let mut second = slots();
            let Ok(Some((again, _))) = response::parse(&out, &mut second, method) else {
                return Err(TestCaseError::fail(format!("{:?} became {:?}", show(&bytes), show(&out))));
            };
            prop_assert_eq!((again.status, again.len), (head.status, out.len()));
            let expected = match delivery {
                Delivery::Plain => head.framing,
                Delivery::Chunked => Framing::Chunked,
                Delivery::UntilClose => Framing::UntilClose,
            };
            prop_assert_eq!(again.framing, expected, "{}", show(&out));
        }
    }

    #[test]
    fn decoding_does_not_depend_on_cuts(wire in chunks(), cuts in vec(0..30_usize, 0..40), length in 0..60_u64) {
        for framing in [Framing::Chunked, Framing::Length(length), Framing::UntilClose, Framing::Empty] {
            let (whole, pieces) = (read(framing, &wire, &[]), read(framing, &wire, &cuts));
            let single = read(framing, &wire, &vec![1; wire.len()]);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok(), "{:?} of {}", framing, show(&wire));
            if let (Ok(whole), Ok(pieces), Ok(single)) = (whole, pieces, single) {
                prop_assert_eq!(&whole, &pieces, "{:?} of {}", framing, show(&wire));
                prop_assert_eq!(&whole, &single, "{:?} of {}", framing, show(&wire));
            }
        }
    }

    #[test]
    fn a_chunked_body_round_trips(bodies in vec(vec(any::<u8>(), 1..300), 0..8), trailers in "(X-[a-z]{1,5}: [a-z]{0,9}\r\n){0,3}") {
        let mut wire = Vec::new();
        for body in &bodies {
            write_chunk_head(&mut wire, body.len());
            wire.extend_from_slice(body);
            wire.extend_from_slice(b"\r\n");
        }
        write_last_chunk(&mut wire, trailers.as_bytes(), &HeaderEdits::default());
        let used = wire.len();
        wire.extend_from_slice(b"next");
        prop_assert_eq!(read(Framing::Chunked, &wire, &[7, 1, 1, 40]), Ok((bodies.concat(), trailers.into_bytes(), used, true)));
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
