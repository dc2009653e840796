//! Settings of the process: threads, shutdown, admin plane and logs.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::check::address;
use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::listener::ClaimedAddresses;
use crate::check::reader::Reader;
use crate::defaults;
use crate::model::{AccessLog, Admin, DecisionLog, MemoryLimit};
use crate::problem::Code;

impl Reader<'_> {
    /// Reads the number of data-plane threads, or `auto`.
    pub(crate) fn workers(&mut self, node: &ConfigNode<'_>) -> Option<NonZeroUsize> {
        if node.is_number_in_quotes() || !node.is_text() {
            return self.integer(node, defaults::WORKERS).and_then(NonZeroUsize::new);
        }
        self.keyword(node, &[("auto", ())], &[]);
        None
    }

    /// Reads a `shutdown` block.
    pub(crate) fn shutdown(&mut self, node: &ConfigNode<'_>) -> Option<Duration> {
        let mapping = self.mapping(node, &keys::SHUTDOWN)?;
        mapping.get("grace").and_then(|p| self.duration(p, &defaults::GRACE))
    }

    /// Reads a `memory` block.
    pub(crate) fn memory(&mut self, node: &ConfigNode<'_>) -> Option<MemoryLimit> {
        let mapping = self.mapping(node, &keys::MEMORY)?;
        let node = mapping.get("buffered_bytes")?;
        let is_share = node.is_text() && node.shown().trim_matches('"').ends_with('%');
        if !is_share {
            return self.size(node, defaults::BUFFERED_BYTES).map(MemoryLimit::Bytes);
        }
        let share = self.share(node)?;
        if share == 0.0 {
            self.problem(node, Code::OutOfRange, "`buffered_bytes` is out of range: expected more than 0%");
            return None;
        }
        Some(MemoryLimit::Share(share))
    }

    /// Reads `admin`: `{address: …}`, or a boolean.
    pub(crate) fn admin(
        &mut self,
        node: Option<&ConfigNode<'_>>,
        claimed: &ClaimedAddresses,
    ) -> Option<Admin> {
        let default = Admin { address: defaults::ADMIN, configured: false };
        let Some(node) = node else {
            self.check_default_admin_address(claimed);
            return Some(default);
        };
        if node.is_bool() {
            let is_on = self.boolean(node)?;
            if is_on {
                self.check_default_admin_address(claimed);
            }
            return is_on.then_some(default);
        }
        if !node.is_block() {
            self.wrong_type(node, "a block or false").help("write `admin: {address: \"127.0.0.1:9900\"}`");
            return None;
        }
        let mapping = self.mapping(node, &keys::ADMIN)?;
        let Some(node) = mapping.get("address") else { return Some(default) };
        let address = self.address(node, "127.0.0.1", |text, _| address::listen_socket(text))?;
        if !address.ip().is_loopback() {
            let message = format!("`{}` is not a loopback address", node.shown());
            self.problem(node, Code::BadAddress, message)
                .help("the admin plane has no authentication in this version: use a loopback address");
            return None;
        }
        self.check_admin_address(node, address, claimed);
        Some(Admin { address, configured: true })
    }

    /// Reads `access_log`: `{path: stdout}`, `{path: FILE}`, or a boolean.
    pub(crate) fn access_log(&mut self, node: &ConfigNode<'_>) -> Option<AccessLog> {
        if node.is_bool() {
            return self.boolean(node)?.then_some(AccessLog::Stdout);
        }
        if !node.is_block() {
            self.wrong_type(node, "a block, true or false").help("write `access_log: {path: stdout}`");
            return None;
        }
        let mapping = self.mapping(node, &keys::ACCESS_LOG)?;
        self.log_path(mapping.get("path"))
    }

    /// Reads `decision_log`: `{path: stdout, sample: "1%"}`, `{path: FILE, …}`, or a boolean.
    pub(crate) fn decision_log(&mut self, node: &ConfigNode<'_>) -> Option<DecisionLog> {
        let sample = defaults::DECISION_SAMPLE;
        if node.is_bool() {
            return self.boolean(node)?.then_some(DecisionLog { target: AccessLog::Stdout, sample });
        }
        if !node.is_block() {
            self.wrong_type(node, "a block, true or false").help("write `decision_log: {path: stdout}`");
            return None;
        }
        let mapping = self.mapping(node, &keys::DECISION_LOG)?;
        let target = self.log_path(mapping.get("path"));
        let sample = match mapping.get("sample") {
            Some(node) => {
                let share = self.share(node)?;
                if share == 0.0 {
                    self.problem(node, Code::OutOfRange, "`sample` is out of range: expected more than 0%")
                        .help("write a share above 0%, or `decision_log: false`");
                    return None;
                }
                share
            }
            None => sample,
        };
        Some(DecisionLog { target: target?, sample })
    }

    /// Reads the output of a log.
    fn log_path(&mut self, node: Option<&ConfigNode<'_>>) -> Option<AccessLog> {
        let Some(node) = node else { return Some(AccessLog::Stdout) };
        match self.text(node)? {
            defaults::LOG_PATH => Some(AccessLog::Stdout),
            path if path.is_empty() || path.contains('\0') => {
                self.problem(node, Code::BadValue, "the path is empty or contains NUL")
                    .help("write `stdout` or the path of a file");
                None
            }
            path => Some(AccessLog::File(self.dir.join(path))),
        }
    }
}
