//! Translation of gRPC-Web requests to gRPC, and of gRPC responses to gRPC-Web.
//!
//! Source: the gRPC project's `PROTOCOL-WEB.md`. Messages are equal on both sides. Three things differ: the content
//! type, the trailers (the last frame of the body), and base64 in the body where the type ends in `-text`.

use crate::base64::{Decoder, Encoder};
use crate::grpc::{ends_media_type, strip_prefix};
use crate::header_edits::HeaderEdits;

/// First byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;
/// Bytes before a message: the compressed flag and the length.
const PREFIX: u8 = 5;

/// Content type of gRPC-Web.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ContentType<'b> {
    /// True if bodies are base64.
    pub text: bool,
    /// Message format and parameters, such as `+proto`.
    suffix: &'b [u8],
}

impl<'b> ContentType<'b> {
    /// Parses a `Content-Type`; `None` if it is not gRPC-Web.
    pub fn parse(content_type: &'b [u8]) -> Option<Self> {
        let rest = strip_prefix(content_type, b"application/grpc-web")?;
        let (text, suffix) = strip_prefix(rest, b"-text").map_or((false, rest), |rest| (true, rest));
        suffix.first().is_none_or(|&next| ends_media_type(next)).then_some(Self { text, suffix })
    }

    /// Returns the corresponding content type of gRPC.
    pub fn to_grpc(&self) -> Vec<u8> {
        [b"application/grpc", self.suffix].concat()
    }

    /// Returns the content type of the response and whether it is text: if `Accept` asks for it, or if the request
    /// is text and `Accept` does not ask for binary.
    fn for_response(&self, accept: Option<&[u8]>) -> (Vec<u8>, bool) {
        let accepts =
            |wanted: &[u8]| accept.is_some_and(|all| all.windows(wanted.len()).any(|w| w == wanted));
        let text = accepts(b"application/grpc-web-text") || (self.text && !accepts(b"application/grpc-web"));
        let kind: &[u8] = if text { b"application/grpc-web-text" } else { b"application/grpc-web" };
        ([kind, self.suffix].concat(), text)
    }
}

/// Translator of one request and its response.
#[derive(Debug)]
pub struct Translator {
    /// Content type of the response.
    pub response_type: Vec<u8>,
    /// True if the destination uses gRPC; false if it understands gRPC-Web itself and nothing is translated.
    pub translated: bool,
    /// Decoder of a request body in base64.
    request: Option<Decoder>,
    /// Encoder of a response body in base64.
    response: Option<Encoder>,
    position: MessagePosition,
    /// True if the response head had the `grpc-status`.
    pub status_sent: bool,
}

impl Translator {
    /// Builds a translator for a request of type `requested` with this `Accept` field.
    pub fn new(requested: &ContentType<'_>, accept: Option<&[u8]>, translated: bool) -> Self {
        let (response_type, text) = requested.for_response(accept);
        Self {
            response_type,
            translated,
            request: (translated && requested.text).then(Decoder::default),
            response: text.then(Encoder::default),
            position: MessagePosition::default(),
            status_sent: false,
        }
    }

    /// Decodes request body bytes in place and returns their number; `None` if they are not valid base64.
    pub fn decode_request(&mut self, bytes: &mut [u8]) -> Option<usize> {
        match &mut self.request {
            Some(decoder) => decoder.decode(bytes).ok(),
            None => Some(bytes.len()),
        }
    }

    /// Reports whether the request body may end here.
    pub fn is_request_complete(&self) -> bool {
        self.request.as_ref().is_none_or(Decoder::is_complete)
    }

    /// Encodes response body bytes; `None` if they are sent unchanged.
    pub fn encode_response(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let encoder = self.response.as_mut()?;
        let mut text = Vec::new();
        encoder.encode(bytes, &mut text);
        // The end of a message must not wait; the last bytes of an incomplete message may.
        if self.position.advance(bytes) {
            encoder.pad(&mut text);
        }
        Some(text)
    }

    /// Returns the frame that ends a response: its trailer lines without those that `edits` drop.
    pub fn trailer_frame(&mut self, trailers: &[u8], edits: &HeaderEdits) -> Vec<u8> {
        let mut frame = vec![TRAILERS, 0, 0, 0, 0];
        let mut status_sent = self.status_sent;
        for line in trailers.split_inclusive(|&byte| byte == b'\n') {
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            let name = str::from_utf8(name).unwrap_or_default();
            status_sent |= name.eq_ignore_ascii_case("grpc-status");
            if !edits.drops_trailer(name) {
                frame.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
                frame.extend_from_slice(&line[name.len()..]);
            }
        }
        if !status_sent {
            // gRPC clients treat a missing status as UNKNOWN; gRPC-Web clients would treat it as success.
            frame.extend_from_slice(
                b"grpc-status: 2\r\ngrpc-message: the response ended without a status\r\n",
            );
        }
        // Trailers come in an HTTP/2 header section, which is far shorter than four bytes can express.
        let len = u32::try_from(frame.len() - usize::from(PREFIX)).unwrap_or(u32::MAX);
        frame[1..5].copy_from_slice(&len.to_be_bytes());
        let Some(encoder) = &mut self.response else { return frame };
        let mut text = Vec::new();
        encoder.encode(&frame, &mut text);
        encoder.pad(&mut text);
        text
    }
}

/// Position in the sequence of messages of a response.
#[derive(Debug, Default)]
struct MessagePosition {
    /// Bytes of the current prefix.
    have: u8,
    len: u32,
    /// Bytes left of the current message.
    left: u32,
}

impl MessagePosition {
    /// Advances by `bytes` and reports whether a message ends there.
    fn advance(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
                continue;
            }
            bytes = rest;
            self.len = self.len << 8 | u32::from(byte);
            self.have += 1;
            if self.have == PREFIX {
                // The flag byte was shifted out at the top.
                (self.have, self.left) = (0, std::mem::take(&mut self.len));
            }
        }
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_types_are_told_apart() {
        let table: [(&str, Option<(bool, &str)>); 12] = [
            ("application/grpc-web", Some((false, "application/grpc"))),
            ("application/grpc-web+proto", Some((false, "application/grpc+proto"))),
            ("application/grpc-web-text", Some((true, "application/grpc"))),
            ("application/grpc-web-text+proto", Some((true, "application/grpc+proto"))),
            ("application/grpc-web;charset=utf-8", Some((false, "application/grpc;charset=utf-8"))),
            ("Application/gRPC-Web", Some((false, "application/grpc"))),
            ("APPLICATION/GRPC-WEB-TEXT+proto", Some((true, "application/grpc+proto"))),
            ("application/grpc-web ; charset=utf-8", Some((false, "application/grpc ; charset=utf-8"))),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/grpc-webs", None),
            ("application/grpc-web-texts", None),
        ];
        for (name, expected) in table {
            let found = ContentType::parse(name.as_bytes()).map(|t| (t.text, t.to_grpc()));
            assert_eq!(found, expected.map(|(text, grpc)| (text, grpc.into())), "{name}");
        }
    }

    #[test]
    fn the_response_is_text_if_the_client_accepts_it() {
        let response = |requested: &'static str, accept: Option<&str>| {
            let requested = ContentType::parse(requested.as_bytes()).expect("a type");
            String::from_utf8(requested.for_response(accept.map(str::as_bytes)).0).expect("text")
        };
        let (text, binary) = ("application/grpc-web-text+proto", "application/grpc-web+proto");
        assert_eq!(response(text, None), text);
        assert_eq!(response(text, Some("*/*")), text);
        assert_eq!(response(text, Some("application/grpc-web+proto")), binary);
        assert_eq!(response(binary, Some("*/*")), binary);
        assert_eq!(response(binary, Some("application/grpc-web-text")), text);
    }

    fn web(name: &'static str) -> Translator {
        Translator::new(&ContentType::parse(name.as_bytes()).expect("a type"), None, true)
    }

    #[test]
    fn trailers_end_the_body() {
        let none = HeaderEdits::default();
        let mut binary = web("application/grpc-web");
        assert_eq!(binary.encode_response(b"x"), None);
        let frame = binary.trailer_frame(b"Grpc-Status: 0\r\nx-a: B:c\r\n", &none);
        assert_eq!(frame, b"\x80\0\0\0\x1agrpc-status: 0\r\nx-a: B:c\r\n");
        let without_status = String::from_utf8_lossy(&binary.trailer_frame(b"", &none)).into_owned();
        assert!(without_status.contains("grpc-status: 2\r\n"), "{without_status:?}");
        binary.status_sent = true;
        assert_eq!(binary.trailer_frame(b"", &none), b"\x80\0\0\0\0");
    }

    #[test]
    fn text_is_padded_at_the_end_of_a_message() {
        let mut text = web("application/grpc-web-text");
        assert_eq!(text.encode_response(b"\0\0\0").as_deref(), Some(&b"AAAA"[..]));
        assert_eq!(text.encode_response(b"\0\x04ab").as_deref(), Some(&b"AARh"[..]), "a byte waits");
        assert_eq!(text.encode_response(b"cd\0\0\0\0\0").as_deref(), Some(&b"YmNkAAAAAAA="[..]));
        let frame = text.trailer_frame(b"grpc-status: 0\r\n", &HeaderEdits::default());
        assert_eq!(frame, b"gAAAABBncnBjLXN0YXR1czogMA0K");
    }

    proptest! {
        #[test]
        fn a_text_response_is_equal_whatever_the_pieces(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            cuts in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let frame = |message: &Vec<u8>| {
                [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
            };
            let all: Vec<u8> = messages.iter().flat_map(frame).collect();
            let (mut call, mut text, mut rest) = (web("application/grpc-web-text"), Vec::new(), &all[..]);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                text.extend(call.encode_response(piece).expect("it is text"));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let mut decoded = text.clone();
            let len = Decoder::default().decode(&mut decoded).expect("base64");
            prop_assert_eq!(&decoded[..len], &all[..], "no byte of the last message waits");
            text.extend(call.trailer_frame(b"grpc-status: 0\r\n", &HeaderEdits::default()));
            let len = Decoder::default().decode(&mut text).expect("base64");
            prop_assert_eq!(&text[..len], &[&all[..], b"\x80\0\0\0\x10grpc-status: 0\r\n"].concat()[..]);
        }
    }
}
