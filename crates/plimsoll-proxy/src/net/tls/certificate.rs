//! DNS names and expiry of an X.509 certificate.
//!
//! Only these fields are read. The rest is skipped unread, so that a certificate with an odd serial number or an
//! unknown kind of name is served as other servers do; rustls verifies what it verifies.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, ErrorKind, Reader, SliceReader, Tag, TagNumber, Tagged};

/// Object identifier of the extension `subjectAltName`, 2.5.29.17 (RFC 5280 section 4.2.1.6).
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
/// Number of the extensions in a certificate's body (RFC 5280 section 4.1).
const EXTENSIONS: TagNumber = TagNumber(3);
/// Number of a DNS name among the kinds of names.
const DNS_NAME: TagNumber = TagNumber(2);

/// Fields of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateInfo {
    /// DNS names, in lower case; a wildcard as `*.example.com`.
    pub(crate) names: Vec<String>,
    /// End of the validity, in seconds since 1970.
    pub(crate) not_after: i64,
}

impl CertificateInfo {
    /// Parses a certificate in DER form.
    ///
    /// # Errors
    /// The bytes do not have the structure of a certificate (RFC 5280 section 4.1).
    pub(crate) fn parse(der: &[u8]) -> der::Result<Self> {
        let body = AnyRef::from_der(der)?.sequence(|certificate| {
            let body = AnyRef::decode(certificate)?;
            skip_rest(certificate)?;
            Ok::<_, der::Error>(body)
        })?;
        body.sequence(parse_body)
    }
}

fn parse_body(body: &mut SliceReader<'_>) -> der::Result<CertificateInfo> {
    let mut field = AnyRef::decode(body)?;
    if field.tag().is_context_specific() {
        field = AnyRef::decode(body)?;
    }
    let _serial_number = field;
    let (_signature, _issuer) = (AnyRef::decode(body)?, AnyRef::decode(body)?);
    let not_after = AnyRef::decode(body)?.sequence(|validity| {
        let _not_before = AnyRef::decode(validity)?;
        seconds(AnyRef::decode(validity)?)
    })?;
    let mut info = CertificateInfo { names: Vec::new(), not_after };
    while !body.is_finished() {
        let field = AnyRef::decode(body)?;
        if field.tag().is_context_specific() && field.tag().number() == EXTENSIONS {
            let extensions = AnyRef::from_der(field.value())?;
            extensions.sequence(|list| read_names(list, &mut info.names))?;
        }
    }
    Ok(info)
}

/// Adds the DNS names of a list of extensions.
fn read_names(extensions: &mut SliceReader<'_>, names: &mut Vec<String>) -> der::Result<()> {
    while !extensions.is_finished() {
        let (id, value) = AnyRef::decode(extensions)?.sequence(|extension| {
            let id = AnyRef::decode(extension)?;
            let mut value = AnyRef::decode(extension)?;
            if value.tag() == Tag::Boolean {
                value = AnyRef::decode(extension)?;
            }
            Ok::<_, der::Error>((id, value))
        })?;
        if id.value() != SUBJECT_ALT_NAME {
            continue;
        }
        AnyRef::from_der(value.value())?.sequence(|list| {
            while !list.is_finished() {
                let name = AnyRef::decode(list)?;
                if name.tag().is_context_specific() && name.tag().number() == DNS_NAME {
                    names.extend(dns_name(name.value()));
                }
            }
            Ok::<_, der::Error>(())
        })?;
    }
    Ok(())
}

/// Returns a DNS name in lower case; `None` if it is not ASCII, which no client asks for.
fn dns_name(bytes: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| name.is_ascii())?;
    Some(name.to_ascii_lowercase())
}

/// Returns a time in seconds since 1970.
fn seconds(time: AnyRef<'_>) -> der::Result<i64> {
    let since_1970 = match time.tag() {
        Tag::UtcTime => time.decode_as::<UtcTime>()?.to_unix_duration(),
        Tag::GeneralizedTime => time.decode_as::<GeneralizedTime>()?.to_unix_duration(),
        tag => return Err(ErrorKind::TagUnexpected { expected: None, actual: tag }.into()),
    };
    Ok(i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX))
}

fn skip_rest(reader: &mut SliceReader<'_>) -> der::Result<()> {
    while !reader.is_finished() {
        AnyRef::decode(reader)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["A.example".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
        params.subject_alt_names.push(rcgen::SanType::DnsName("*.b.example".try_into().unwrap()));
        edit(&mut params);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_expiry_are_read() {
        for (year, not_after) in [(2031, 1_924_992_000), (2061, 2_871_763_200)] {
            let der = certificate(|params| params.not_after = rcgen::date_time_ymd(year, 1, 1));
            let info = CertificateInfo::parse(&der).unwrap();
            assert_eq!(info.names, ["a.example", "*.b.example"]);
            assert_eq!(info.not_after, not_after, "{year}");
        }
    }

    #[test]
    fn odd_serial_numbers_are_accepted() {
        for serial in [vec![0], vec![0xff; 3], vec![0x7f; 40], vec![0; 30]] {
            let der = certificate(|params| params.serial_number = Some(serial.clone().into()));
            assert_eq!(CertificateInfo::parse(&der).unwrap().names.len(), 2, "{serial:?}");
        }
    }

    #[test]
    fn no_bytes_cause_a_panic() {
        let der = certificate(|_| {});
        for end in 0..der.len() {
            assert!(CertificateInfo::parse(&der[..end]).is_err(), "{end}");
            for byte in [0, 1, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = der.clone();
                changed[end] = byte;
                let _any_result = CertificateInfo::parse(&changed);
            }
        }
    }
}
