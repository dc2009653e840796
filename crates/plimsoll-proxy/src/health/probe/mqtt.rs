//! Whether a broker of MQTT accepts a connection (3.1.1, OASIS 2014: sections 3.1, 3.2 and 3.14).
//!
//! A check that comes as nobody asks whether the broker serves, not whether it serves us: one that refuses for
//! want of a name has read the packet, looked it up and answered, so it passes. With a name of ours the same
//! refusal fails, because then it is about an account that ought to work.

use plimsoll_core::hash::hash;
use plimsoll_core::health::Login;
use plimsoll_core::pool::ProbeRequest;

use crate::net::stream::Stream;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// Protocol level 4 is 3.1.1, which every broker transport.
const NAME_AND_LEVEL: [u8; 7] = [0, 4, b'M', b'Q', b'T', b'T', 4];
/// Nothing is kept of the session.
const CLEAN: u8 = 0x02;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;
/// Not accepted for its name and password, or for want of them.
const BAD_LOGIN: u8 = 4;
const NOT_AUTHORIZED: u8 = 5;

/// How a check calls itself: a broker ends an older connection of the same name, so no two balancers and no two
/// of their pools' destinations may share one. At most 23 letters and digits, which every broker takes.
pub(crate) fn client_id(order: &ProbeRequest) -> String {
    let told = format!("{} {} {} {}", std::process::id(), order.id.0, order.name, order.address);
    format!("plimsoll{:015x}", hash(told.as_bytes()) >> 4)
}

/// Asks to be let in, and says goodbye.
pub(crate) async fn ask(mut stream: Stream, id: &str, login: Option<&Login>) -> Result<(), String> {
    stream.write_all(&connect(id, login)).await.map_err(|e| format!("cannot send: {e}"))?;
    let mut answer = [0; 4];
    let mut have = 0;
    while have < answer.len() {
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut answer[have..])).await;
        match read.map_err(|e| format!("cannot receive: {e}"))? {
            0 => return Err("closed before answering".to_owned()),
            n => have += n,
        }
    }
    judge(answer, login.is_some())?;
    // It answered: what becomes of our goodbye changes nothing.
    let _gone_already = stream.write_all(&DISCONNECT).await;
    Ok(())
}

fn judge(answer: [u8; 4], with_login: bool) -> Result<(), String> {
    let [CONNACK, 2, _session, code] = answer else {
        return Err("answered with something that is not MQTT 3.1.1".to_owned());
    };
    let why = match code {
        0 => return Ok(()),
        BAD_LOGIN | NOT_AUTHORIZED if !with_login => return Ok(()),
        1 => "it does not speak MQTT 3.1.1",
        2 => "it does not take our client id",
        3 => "it is unavailable",
        BAD_LOGIN => "bad name or password",
        NOT_AUTHORIZED => "not authorized",
        _ => return Err(format!("refused the connection with code {code}")),
    };
    Err(format!("refused the connection: {why}"))
}

fn connect(id: &str, login: Option<&Login>) -> Vec<u8> {
    let password = login.map(|login| &*login.password).filter(|password| !password.is_empty());
    let flags =
        CLEAN | if login.is_some() { USERNAME } else { 0 } | if password.is_some() { PASSWORD } else { 0 };
    let mut body = NAME_AND_LEVEL.to_vec();
    // No keep-alive: the connection ends before any would be due.
    body.extend([flags, 0, 0]);
    for text in [Some(id), login.map(|login| &*login.username), password].into_iter().flatten() {
        // The configuration keeps them far below 64 KiB.
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
    fn what_is_sent_is_a_connect() {
        let login = Login { username: "me".into(), password: "x".repeat(200).into() };
        let bare = connect("id", None);
        assert_eq!(bare, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02id");
        let full = connect("id", Some(&login));
        assert_eq!(full[..3], [0x10, 0xdc, 0x01], "{full:?}");
        assert_eq!(full.len(), 3 + 0xdc);
        assert_eq!(full[10], CLEAN | USERNAME | PASSWORD);
    }

    #[test]
    fn a_refusal_about_us_is_an_answer_of_a_living_broker() {
        for (code, nobody, somebody) in [
            (0, true, true),
            (1, false, false),
            (3, false, false),
            (4, true, false),
            (5, true, false),
            (9, false, false),
        ] {
            assert_eq!(judge([CONNACK, 2, 0, code], false).is_ok(), nobody, "{code}");
            assert_eq!(judge([CONNACK, 2, 0, code], true).is_ok(), somebody, "{code}");
        }
        assert!(judge(*b"HTTP", false).is_err());
    }
}
