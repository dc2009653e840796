//! Which rule a request falls under.

/// Which hosts a rule is for. Compared without port and case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one, lower case.
    Exact(String),
    /// Any name that ends so; `*.example.com` is kept as `.example.com`.
    Suffix(String),
}

/// Which requests a rule is for; what is `None` or empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The host.
    pub host: Option<HostPattern>,
    /// The path starts so, byte for byte, as it is forwarded.
    pub path_prefix: Option<String>,
    /// Any of these methods.
    pub methods: Vec<String>,
    /// Each of these headers (lower-case names) has a line of exactly this value.
    pub headers: Vec<(String, String)>,
}
