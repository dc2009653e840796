//! TLS of listeners and pools.

use std::fs::File;
use std::path::PathBuf;

use crate::check::address::is_host_name;
use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};
use crate::problem::Code;
use crate::tree::Value;

impl Reader<'_> {
    /// Reads the `tls` block of a listener.
    pub(crate) fn server_tls(&mut self, node: &ConfigNode<'_>) -> Option<ServerTls> {
        let mapping = self.mapping(node, &keys::SERVER_TLS)?;
        let certificates = match mapping.get("certificates") {
            Some(node) => self.certificates(node),
            None => {
                self.missing(
                    node,
                    "certificates",
                    "write it like `certificates: [{cert: c.pem, key: k.pem}]`",
                );
                Vec::new()
            }
        };
        let ca = mapping.get("client_ca").and_then(|p| self.file(p));
        let min_version = mapping
            .get("min_version")
            .and_then(|p| self.keyword(p, &TlsVersion::ALL.map(|version| (version.as_str(), version)), &[]));
        let client_auth = self.client_auth(&mapping, ca);
        let client_crl = mapping.get("client_crl").and_then(|p| self.file(p));
        if let Some(node) = mapping.get("client_crl")
            && client_auth == ClientAuth::None
        {
            self.problem(node, Code::Conflict, "`client_crl` has no effect without client certificates")
                .help("add their authorities: `client_ca: ca.pem`");
        }
        let strict_host = mapping.get("strict_host").and_then(|p| self.boolean(p));
        Some(ServerTls {
            certificates,
            client_auth,
            client_crl,
            min_version: min_version.unwrap_or_default(),
            strict_host: strict_host.unwrap_or(defaults::STRICT_HOST),
        })
    }

    fn client_auth(&mut self, mapping: &Mapping<'_>, ca: Option<PathBuf>) -> ClientAuth {
        let wanted = mapping.get("client_auth");
        let required = wanted.and_then(|p| {
            self.keyword(p, &[("none", None), ("optional", Some(false)), ("required", Some(true))], &[])
        });
        match (wanted, required.flatten(), mapping.get("client_ca"), ca) {
            (Some(node), Some(_), None, _) => {
                self.problem(node, Code::Conflict, "`client_auth` requires certificate authorities")
                    .help("add their file: `client_ca: ca.pem`");
                ClientAuth::None
            }
            (Some(_), None, Some(_), _) if required == Some(None) => ClientAuth::None,
            (_, Some(false), _, Some(ca)) => ClientAuth::Optional(ca),
            // A `client_ca` alone requires certificates of these authorities.
            (_, _, Some(_), Some(ca)) => ClientAuth::Required(ca),
            _ => ClientAuth::None,
        }
    }

    fn certificates(&mut self, node: &ConfigNode<'_>) -> Vec<CertificateFiles> {
        if matches!(&node.tree.value, Value::List(items) if items.is_empty()) {
            self.problem(node, Code::BadValue, "the list of certificates is empty");
        }
        let items = self.list(node);
        items.iter().filter_map(|item| self.certificate(item)).collect()
    }

    fn certificate(&mut self, node: &ConfigNode<'_>) -> Option<CertificateFiles> {
        let mapping = self.mapping(node, &keys::CERTIFICATE)?;
        self.certificate_files(node, &mapping)
    }

    /// Reads `cert` and `key`, which are only valid together.
    fn certificate_files(
        &mut self,
        node: &ConfigNode<'_>,
        mapping: &Mapping<'_>,
    ) -> Option<CertificateFiles> {
        let [cert, key] = ["cert", "key"].map(|name| {
            let given = mapping.get(name);
            if given.is_none() {
                self.missing(node, name, "a certificate and its private key are two PEM files");
            }
            given.and_then(|p| self.file(p))
        });
        Some(CertificateFiles { cert: cert?, key: key? })
    }

    /// Reads the `tls` of a pool.
    pub(crate) fn client_tls(&mut self, node: &ConfigNode<'_>) -> Option<ClientTls> {
        if node.is_bool() {
            return self.boolean(node)?.then_some(ClientTls {
                ca: None,
                server_name: None,
                identity: None,
                verify: defaults::VERIFY_DESTINATIONS,
            });
        }
        let mapping = self.mapping(node, &keys::CLIENT_TLS)?;
        let ca = mapping.get("ca").and_then(|p| self.file(p));
        let server_name = mapping.get("server_name").and_then(|p| self.parsed(p, "a host name", server_name));
        let identity = match (mapping.get("cert"), mapping.get("key")) {
            (None, None) => None,
            _ => self.certificate_files(node, &mapping),
        };
        let verify = mapping.get("verify").and_then(|p| {
            let verify = self.boolean(p)?;
            if !verify {
                let message =
                    "destinations are not verified: an attacker on the network can read and change messages";
                self.problem(p, Code::Insecure, message)
                    .help("set `ca` to their certificate authority instead");
            }
            Some(verify)
        });
        if let (Some(node), Some(_), Some(false)) = (mapping.get("ca"), &ca, verify) {
            self.problem(node, Code::Conflict, "`ca` has no effect with `verify: false`");
        }
        Some(ClientTls { ca, server_name, identity, verify: verify.unwrap_or(defaults::VERIFY_DESTINATIONS) })
    }

    /// Reads the path of a file and opens it, so that a missing file is reported by the check and not at the start.
    fn file(&mut self, node: &ConfigNode<'_>) -> Option<PathBuf> {
        let text = self.text(node)?;
        let path = self.dir.join(text);
        let opened = File::open(&path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(std::io::ErrorKind::IsADirectory.into()),
            false => Ok(()),
        });
        if let Err(error) = opened {
            let message = format!("`{}` cannot be read: {error}", node.shown());
            self.problem(node, Code::UnreadableFile, message)
                .help("relative paths start at the folder of the configuration");
            return None;
        }
        Some(path)
    }
}

fn server_name(text: &str) -> Result<String, ValueError> {
    match is_host_name(text) || text.parse::<std::net::IpAddr>().is_ok() {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(ValueError::new(
            Code::BadValue,
            "is not a valid host name",
            "write the name in the certificate, without port: `api.internal`",
        )),
    }
}
