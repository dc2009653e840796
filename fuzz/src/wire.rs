//! Bodies of the fuzz targets for `plimsoll-wire`: each takes arbitrary bytes and asserts what must always hold.

use std::mem::MaybeUninit;

use plimsoll_wire::Detection;
use plimsoll_wire::base64::{self, Decoder, Encoder};
use plimsoll_wire::client_hello;
use plimsoll_wire::grpc;
use plimsoll_wire::grpc_web::{ContentType, Translator};
use plimsoll_wire::http1::body::{write_chunk_head, write_last_chunk};
use plimsoll_wire::http1::fields::{classify_field, content_length, list_members, write_decimal};
use plimsoll_wire::http1::request::{self, Forwarding};
use plimsoll_wire::http1::response::{self, Delivery, Persistence, ResponseRewrite};
use plimsoll_wire::http1::target::{Target, is_valid_host};
use plimsoll_wire::http1::{
    BodyReader, Framing, HeaderEdits, HeaderSlots, MAX_HEADERS, Method, RequestLimits,
};
use plimsoll_wire::mqtt::{self, Outstanding, PacketReader, connack};
use plimsoll_wire::orca;
use plimsoll_wire::protobuf;
use plimsoll_wire::proxy_protocol::{self, Header, Version};

const LIMITS: RequestLimits = RequestLimits { target_bytes: 8192, head_bytes: 65_536, headers: 100 };

const fn slots<'b>() -> HeaderSlots<'b> {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// Splits off the first byte as options of a target.
fn options(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(&first, rest)| (first, rest))
}

/// A request head that is accepted is written so that it parses to the same request.
pub fn http1_request(data: &[u8]) {
    let (options, data) = options(data);
    let mut first = slots();
    let Ok(Some((head, headers))) = request::parse(data, &mut first, &LIMITS) else { return };
    assert!(head.len <= data.len() && headers.len() <= LIMITS.headers);
    assert!(!head.target.path().is_empty());
    let edits = HeaderEdits::default();
    let (trusted, via) = (options & 1 != 0, options & 2 != 0);
    let forwarding = Forwarding { client: None, scheme: "http", certificate: None, trusted, via };
    let mut out = Vec::new();
    request::write_head(&mut out, data, &head, headers, forwarding, &edits, "fallback");
    let mut second = slots();
    // The head may have grown beyond the limits of the first parser.
    let limits = RequestLimits { target_bytes: usize::MAX / 2, head_bytes: usize::MAX, headers: MAX_HEADERS };
    let (again, headers) =
        request::parse(&out, &mut second, &limits).expect("a valid head").expect("a complete head");
    assert_eq!(again.len, out.len());
    assert_eq!((again.method, again.method_name), (head.method, head.method_name));
    assert_eq!(again.target.path(), head.target.path());
    let is_decoded = head.is_grpc && head.grpc_web.is_some();
    assert!(is_decoded || again.framing == head.framing);
    assert_eq!(again.upgrade, head.upgrade);
    assert_eq!(again.expects_continue, head.expects_continue);
    assert!(!again.is_http10);
    assert_eq!(headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host")).count(), 1);
}

/// A response head that is accepted is written with the framing that it was parsed with.
pub fn http1_response(data: &[u8]) {
    let (options, data) = options(data);
    let method = if options & 1 != 0 { Method::Head } else { Method::Get };
    let mut first = slots();
    let Ok(Some((head, headers))) = response::parse(data, &mut first, method) else { return };
    assert!(head.len <= data.len());
    let edits = HeaderEdits::default();
    let rewrite = ResponseRewrite {
        delivery: response::delivery(head.framing, options & 2 != 0),
        persistence: Persistence::Implicit,
        edits: &edits,
        via: options & 4 != 0,
        content_type: None,
        hides_load: options & 8 != 0,
    };
    let mut out = Vec::new();
    response::write_head(&mut out, data, &head, headers, rewrite);
    let mut second = slots();
    let Some((again, _)) = response::parse(&out, &mut second, method).expect("a valid head") else {
        panic!("an incomplete head was written");
    };
    assert_eq!((again.status, again.len), (head.status, out.len()));
    let expected = match rewrite.delivery {
        Delivery::Plain => head.framing,
        Delivery::Chunked => Framing::Chunked,
        Delivery::UntilClose => Framing::UntilClose,
    };
    assert_eq!(again.framing, expected);
}

/// Decodes a body in pieces of `step` bytes: the data, the trailers and the bytes consumed.
fn decode_body(framing: Framing, data: &[u8], step: usize) -> Option<(Vec<u8>, Vec<u8>, usize, bool)> {
    let mut reader = BodyReader::new(framing);
    let (mut body, mut consumed) = (Vec::new(), 0);
    for piece in data.chunks(step) {
        let mut piece = piece.to_vec();
        let decoded = reader.decode(&mut piece).ok()?;
        assert!(decoded.consumed <= piece.len() && decoded.data.end <= decoded.consumed);
        assert!(reader.is_done() || decoded.consumed == piece.len());
        body.extend_from_slice(&piece[decoded.data]);
        consumed += decoded.consumed;
        if reader.is_done() {
            break;
        }
    }
    Some((body, reader.trailers().to_vec(), consumed, reader.is_done()))
}

/// A body decodes equally wherever it is cut, and round-trips through chunks of the proxy.
pub fn http1_body(data: &[u8]) {
    let (options, data) = options(data);
    let framing = match options & 3 {
        0 => Framing::Length(u64::from(options >> 2)),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let whole = decode_body(framing, data, data.len().max(1));
    assert_eq!(whole, decode_body(framing, data, usize::from(options >> 2) + 1));
    assert_eq!(whole, decode_body(framing, data, 1));
    let Some((body, trailers, _, true)) = whole else { return };
    let mut out = Vec::new();
    for piece in body.chunks(usize::from(options) + 1) {
        write_chunk_head(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    write_last_chunk(&mut out, &trailers, &HeaderEdits::default());
    let again = decode_body(Framing::Chunked, &out, out.len());
    assert_eq!(again, Some((body, trailers, out.len(), true)));
}

/// Targets, hosts and field values are bounded by their input and parse to what they print as.
pub fn http1_fields(data: &[u8]) {
    if let Some(length) = content_length(data) {
        let mut digits = Vec::new();
        write_decimal(&mut digits, length);
        let leading = data.len() - digits.len();
        assert!(data[..leading].iter().all(|&b| b == b'0') && data[leading..] == digits);
    }
    assert!(list_members(data).all(|member| !member.is_empty() && member == member.trim_ascii()));
    if is_valid_host(data) {
        assert!(data.iter().all(|&b| b.is_ascii_graphic() && b != b'@' && b != b'/' && b != b','));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    assert_eq!(classify_field(text), classify_field(&text.to_ascii_uppercase()));
    for for_options in [false, true] {
        let Some(target) = Target::parse(text, for_options) else { continue };
        assert!(!target.path().is_empty() && target.path_and_query.is_ascii());
        assert!(target.authority.is_none_or(|authority| is_valid_host(authority.as_bytes())));
        let starts = target.path_and_query.as_bytes().first().copied();
        assert!(matches!(starts, Some(b'/' | b'?' | b'*')));
    }
}

/// A header consumes no more than its input, is incomplete at every cut, and is written so that it parses equally.
pub fn proxy_protocol(data: &[u8]) {
    let Ok(Some((header, len))) = Header::parse(data) else { return };
    assert!(len <= data.len());
    assert_eq!(proxy_protocol::detect(data), Detection::Yes);
    for cut in 0..len {
        assert!(matches!(Header::parse(&data[..cut]), Ok(None)), "cut at {cut}");
    }
    for version in [Version::V1, Version::V2] {
        let bytes = header.encode(version);
        assert!(!bytes.is_empty());
        let (again, used) = Header::parse(&bytes).expect("a valid header").expect("a complete header");
        assert_eq!(used, bytes.len());
        assert_eq!(again.addresses.is_some(), header.addresses.is_some());
        let ports = |header: &Header| header.addresses.map(|(source, to)| (source.port(), to.port()));
        assert_eq!(ports(&again), ports(&header));
        assert_eq!(again.encode(version), bytes);
    }
}

/// A ClientHello that is complete stays complete, with the same name, when more bytes follow.
pub fn client_hello(data: &[u8]) {
    let parsed = client_hello::parse(data);
    if data.is_empty() {
        assert_eq!(parsed, Ok(None));
    }
    let Ok(Some(hello)) = parsed else { return };
    assert!(client_hello::is_tls_handshake(data));
    let is_lower = |name: &String| !name.bytes().any(|b| b.is_ascii_uppercase());
    assert!(hello.server_name.as_ref().is_none_or(is_lower));
}

/// A CONNECT consumes no more than its input and its limit, and is incomplete at every cut.
pub fn mqtt_connect(data: &[u8]) {
    const MAX_LEN: usize = 1024;
    let parsed = mqtt::connect::parse(data, MAX_LEN);
    let Ok(Some(connect)) = parsed else { return };
    assert!(connect.len <= data.len() && connect.len <= MAX_LEN);
    assert!(str::from_utf8(connect.client_id).is_ok());
    assert_eq!(mqtt::detect(data), Detection::Yes);
    for cut in 0..connect.len {
        assert_eq!(mqtt::connect::parse(&data[..cut], MAX_LEN), Ok(None), "cut at {cut}");
        assert_ne!(mqtt::detect(&data[..cut]), Detection::No, "cut at {cut}");
    }
    let mut packets = PacketReader::default();
    packets.advance(&data[..connect.len], |_| {});
    assert!(packets.is_at_boundary());
}

/// A response to CONNECT that is understood is not changed by the bytes that follow.
pub fn mqtt_connack(data: &[u8]) {
    for version in [mqtt::Version::V3, mqtt::Version::V5] {
        let parsed = connack::parse(data, version);
        for cut in 0..data.len().min(64) {
            let early = connack::parse(&data[..cut], version);
            assert!(early.is_none() || early == parsed, "cut at {cut}");
        }
    }
}

/// Packets do not depend on how the bytes are cut.
pub fn mqtt_packets(data: &[u8]) {
    let (mut whole, mut pieces) = (PacketReader::default(), PacketReader::default());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    whole.advance(data, |packet| first.push(packet));
    data.iter().for_each(|byte| pieces.advance(&[*byte], |packet| second.push(packet)));
    assert_eq!(whole.is_at_boundary(), pieces.is_at_boundary());
    assert_eq!(first, second);
    let mut outstanding = Outstanding::default();
    first.iter().for_each(|packet| outstanding.on_client_packet(*packet));
    first.iter().for_each(|packet| outstanding.on_server_packet(*packet));
}

/// Timeouts, statuses and content types of gRPC.
pub fn grpc(data: &[u8]) {
    if let Some(timeout) = grpc::parse_timeout(data) {
        assert!(timeout.as_secs() <= 99_999_999 * 3600 && data.len() <= 9);
    }
    assert_eq!(grpc::parse_status(data).is_some(), grpc::status_name(data).is_some());
    if let Some(status) = grpc::parse_status(data) {
        assert_eq!(status.to_string().as_bytes(), data);
    }
    assert!(matches!(grpc::to_http_status(data), 200 | 429 | 500 | 503));
    assert!(!(grpc::is_grpc_content_type(data) && ContentType::parse(data).is_some()));
}

/// Translation of gRPC-Web does not depend on how bodies are cut, and its last frame has the right length.
pub fn grpc_web(data: &[u8]) {
    let (options, data) = options(data);
    let name: &[u8] =
        if options & 1 != 0 { b"application/grpc-web-text+proto" } else { b"application/grpc-web" };
    let content_type = ContentType::parse(name).expect("a content type of gRPC-Web");
    assert!(grpc::is_grpc_content_type(&content_type.to_grpc()));
    if let Some(other) = ContentType::parse(data) {
        assert!(grpc::is_grpc_content_type(&other.to_grpc()));
    }
    let translate = |step: usize| {
        let mut translator = Translator::new(&content_type, None, true);
        let mut request = Vec::new();
        let mut is_valid = true;
        for piece in data.chunks(step) {
            let mut piece = piece.to_vec();
            let Some(len) = translator.decode_request(&mut piece) else {
                is_valid = false;
                break;
            };
            request.extend_from_slice(&piece[..len]);
        }
        let is_valid = is_valid && translator.is_request_complete();
        let mut response = Vec::new();
        for piece in data.chunks(step) {
            response.extend(translator.encode_response(piece).unwrap_or_else(|| piece.to_vec()));
        }
        response.extend(translator.trailer_frame(b"grpc-status: 0\r\n", &HeaderEdits::default()));
        (is_valid.then_some(request), decode_text(content_type.text, response))
    };
    let whole = translate(data.len().max(1));
    assert_eq!(whole, translate(usize::from(options >> 1) + 1));
    let trailer = b"\x80\0\0\0\x10grpc-status: 0\r\n";
    assert_eq!(whole.1, [data, trailer].concat());
}

fn decode_text(is_text: bool, mut body: Vec<u8>) -> Vec<u8> {
    if is_text {
        let mut decoder = Decoder::default();
        let len = decoder.decode(&mut body).expect("valid base64");
        assert!(decoder.is_complete());
        body.truncate(len);
    }
    body
}

/// Numbers of a load report are finite, and a report is bounded.
pub fn orca(data: &[u8]) {
    for name in ["endpoint-load-metrics", "endpoint-load-metrics-bin", "endpoint-load-metrics-json"] {
        let encoded = base64::encode(data);
        for value in [data, encoded.as_bytes()] {
            let mut count = 0;
            let accept = |entry: orca::Entry<'_>| {
                assert!(entry.value.is_finite());
                count += 1;
                true
            };
            let parsed = orca::parse(std::iter::once((name, value)), accept);
            assert!(parsed.is_some() && count <= 64);
        }
    }
}

/// Fields end where the message ends, and a string field round-trips in front of any message.
pub fn protobuf(data: &[u8]) {
    let mut rest = data;
    let is_valid = loop {
        let before = rest.len();
        match protobuf::next_field(&mut rest) {
            Ok(Some((number, _))) => assert!(number > 0 && rest.len() < before),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let found = protobuf::find_varint(data, 1);
    assert_eq!(found.is_ok(), is_valid);
    let mut message = Vec::new();
    let text = String::from_utf8_lossy(data);
    protobuf::write_string(&mut message, 2, &text);
    message.extend_from_slice(data);
    let mut rest = &message[..];
    let field = protobuf::next_field(&mut rest).expect("a valid field");
    assert_eq!(field, Some((2, protobuf::Value::Bytes(text.as_bytes()))));
    assert_eq!(rest, data);
    assert_eq!(protobuf::find_varint(&message, 1), found);
}

/// Base64 decodes equally wherever it is cut, and encoded bytes decode to themselves.
pub fn base64(data: &[u8]) {
    let (options, data) = options(data);
    let decode = |step: usize| {
        let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
        for piece in data.chunks(step) {
            let mut piece = piece.to_vec();
            let len = decoder.decode(&mut piece).ok()?;
            assert!(len <= piece.len());
            bytes.extend_from_slice(&piece[..len]);
        }
        decoder.is_complete().then_some(bytes)
    };
    let step = usize::from(options) + 1;
    assert_eq!(decode(data.len().max(1)), decode(step));
    let (mut encoder, mut text) = (Encoder::default(), Vec::new());
    data.chunks(step).for_each(|piece| encoder.encode(piece, &mut text));
    encoder.pad(&mut text);
    assert_eq!(text, base64::encode(data).as_bytes());
    assert_eq!(decode_text(true, text), data);
}
