//! MQTT checks: whether a broker accepts a connection (3.1.1, OASIS 2014: sections 3.1, 3.2 and 3.14).
//!
//! A check without credentials tests whether the broker serves at all. A broker that rejects it for lack of them has
//! read the packet and responded, so it passes. With credentials the same response fails: the account should work.

use plimsoll_core::hash::hash;
use plimsoll_core::health::{CheckFailure, CheckFailureKind, Login};
use plimsoll_core::pool::ProbeRequest;

use crate::health::probe::{bad_response, closed};
use crate::net::stream::Stream;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// Protocol name, and protocol level 4: version 3.1.1, which every broker supports.
const NAME_AND_LEVEL: [u8; 7] = [0, 4, b'M', b'Q', b'T', b'T', 4];
/// Flag of a clean session: the broker keeps no state.
const CLEAN: u8 = 0x02;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;
/// Return code for a wrong or missing user name or password.
const BAD_LOGIN: u8 = 4;
const NOT_AUTHORIZED: u8 = 5;

/// Returns the client id of a check: at most 23 letters and digits, which every broker accepts.
///
/// A broker closes an older connection of the same id, so the id differs between processes and destinations.
pub(crate) fn client_id(order: &ProbeRequest) -> String {
    let text = format!("{} {} {} {}", std::process::id(), order.id.0, order.name, order.address);
    format!("plimsoll{:015x}", hash(text.as_bytes()) >> 4)
}

/// Connects as a client, and disconnects.
pub(super) async fn check(mut stream: Stream, id: &str, login: Option<&Login>) -> Result<(), CheckFailure> {
    stream.write_all(&connect(id, login)).await.map_err(|error| closed("cannot send", &error))?;
    let mut response = [0; 4];
    let mut have = 0;
    while have < response.len() {
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut response[have..])).await;
        match read.map_err(|error| closed("cannot receive", &error))? {
            0 => {
                let detail = "connection closed before the response";
                return Err(CheckFailure::protocol(CheckFailureKind::Closed, detail));
            }
            n => have += n,
        }
    }
    check_connack(response, login.is_some())?;
    // The result is known; a failed DISCONNECT changes nothing.
    let _closed_already = stream.write_all(&DISCONNECT).await;
    Ok(())
}

fn check_connack(response: [u8; 4], with_login: bool) -> Result<(), CheckFailure> {
    let [CONNACK, 2, _session, code] = response else {
        return Err(bad_response("the response is not MQTT 3.1.1"));
    };
    let cause = match code {
        0 => return Ok(()),
        BAD_LOGIN | NOT_AUTHORIZED if !with_login => return Ok(()),
        1 => "MQTT 3.1.1 is not supported".to_owned(),
        2 => "the client id is not accepted".to_owned(),
        3 => "the server is unavailable".to_owned(),
        BAD_LOGIN => "bad user name or password".to_owned(),
        NOT_AUTHORIZED => "not authorized".to_owned(),
        _ => format!("return code {code}"),
    };
    let detail = format!("rejected the connection: {cause}");
    Err(CheckFailure::protocol(CheckFailureKind::Rejected, detail))
}

fn connect(id: &str, login: Option<&Login>) -> Vec<u8> {
    let password = login.map(|login| &*login.password).filter(|password| !password.is_empty());
    let flags =
        CLEAN | if login.is_some() { USERNAME } else { 0 } | if password.is_some() { PASSWORD } else { 0 };
    let mut body = NAME_AND_LEVEL.to_vec();
    // Keep-alive is off: the connection is shorter than any interval.
    body.extend([flags, 0, 0]);
    for text in [Some(id), login.map(|login| &*login.username), password].into_iter().flatten() {
        // The configuration limits them to far less than 64 KiB.
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        body.extend((text.len() as u16).to_be_bytes());
        body.extend_from_slice(text);
    }
    let mut packet = vec![CONNECT];
    let mut length = body.len();
    while length > 0x7f {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.append(&mut body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_a_connect_packet() {
        let login = Login { username: "me".into(), password: "x".repeat(200).into() };
        let bare = connect("id", None);
        assert_eq!(bare, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02id");
        let full = connect("id", Some(&login));
        assert_eq!(full[..3], [0x10, 0xdc, 0x01], "{full:?}");
        assert_eq!(full.len(), 3 + 0xdc);
        assert_eq!(full[10], CLEAN | USERNAME | PASSWORD);
    }

    #[test]
    fn a_broker_that_requires_credentials_passes_a_check_without_them() {
        for (code, without_login, with_login) in [
            (0, true, true),
            (1, false, false),
            (3, false, false),
            (4, true, false),
            (5, true, false),
            (9, false, false),
        ] {
            assert_eq!(check_connack([CONNACK, 2, 0, code], false).is_ok(), without_login, "{code}");
            assert_eq!(check_connack([CONNACK, 2, 0, code], true).is_ok(), with_login, "{code}");
        }
        assert!(check_connack(*b"HTTP", false).is_err());
    }
}
