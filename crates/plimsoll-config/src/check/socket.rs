//! Files of Unix sockets, and TCP options.

use std::ops::RangeInclusive;
use std::time::Duration;

use nix::unistd::{Group, User};

use crate::check::config_node::ConfigNode;
use crate::check::keys::{self, Keys};
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{TcpOptions, UnixFile};
use crate::problem::Code;
use crate::units::ConfigDuration;

impl Reader<'_> {
    /// Reads the `tcp` block of a listener or pool.
    pub(crate) fn tcp_options(&mut self, node: Option<&ConfigNode<'_>>, keys: &'static Keys) -> TcpOptions {
        let mut tcp = defaults::TCP;
        let Some(mapping) = node.and_then(|node| self.mapping(node, keys)) else { return tcp };
        for (key, range, option) in [
            ("keepalive", &defaults::KEEPALIVE, &mut tcp.keepalive),
            ("user_timeout", &defaults::USER_TIMEOUT, &mut tcp.user_timeout),
        ] {
            if let Some(time) = mapping.get(key).and_then(|p| self.duration_or_none(p, range)) {
                *option = time;
            }
        }
        tcp
    }

    /// Reads a duration, or `none`.
    fn duration_or_none(
        &mut self,
        node: &ConfigNode<'_>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        let time = self.parsed(node, "a duration like \"30s\", or none", |text| match text {
            "none" => Ok(None),
            text => Ok(Some(text.parse::<ConfigDuration>()?.0)),
        })?;
        if time.is_some_and(|time| !range.contains(&time)) {
            let (low, high) = (ConfigDuration(*range.start()), ConfigDuration(*range.end()));
            let message = format!("`{}` is out of range: expected {low} to {high}, or none", node.shown());
            self.problem(node, Code::OutOfRange, message);
            return None;
        }
        Some(time)
    }

    /// Reads the `unix` block of a listener, which applies to its Unix sockets.
    pub(crate) fn unix_file(&mut self, node: &ConfigNode<'_>, has_unix_address: bool) -> UnixFile {
        let mut file = UnixFile::default();
        let Some(mapping) = self.mapping(node, &keys::UNIX) else { return file };
        if !has_unix_address {
            self.problem(
                node,
                Code::Conflict,
                "`unix` applies to Unix sockets, which this listener does not have",
            )
            .help("remove it, or listen on an address like \"unix:/run/lb.sock\"");
        }
        file.mode = mapping.get("mode").and_then(|p| self.parsed(p, "file permissions like \"0660\"", mode));
        let user = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let user = |text: &str| id(text, "is not a user of this machine", user);
        file.user = mapping.get("user").and_then(|p| self.parsed(p, "a user", user));
        let group = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        let group = |text: &str| id(text, "is not a group of this machine", group);
        file.group = mapping.get("group").and_then(|p| self.parsed(p, "a group", group));
        file
    }
}

/// Parses permission bits in octal digits.
fn mode(text: &str) -> Result<u32, ValueError> {
    let digits = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok()).flatten();
    digits.filter(|mode| *mode <= 0o777 && !text.starts_with('+')).ok_or_else(|| {
        let help = "write three octal digits, such as \"0660\" for owner and group";
        ValueError::new(Code::BadValue, "is not a set of file permissions", help)
    })
}

/// Returns the id of a user or group, given by its name or number.
fn id(text: &str, reason: &'static str, lookup: impl FnOnce(&str) -> Option<u32>) -> Result<u32, ValueError> {
    let help = "write its name or number, in quotes";
    text.parse().ok().or_else(|| lookup(text)).ok_or_else(|| ValueError::new(Code::BadValue, reason, help))
}
