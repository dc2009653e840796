//! Route matching: the first rule that matches a request.

/// Host condition of a rule, compared without port and case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// One host name, in lower case.
    Exact(String),
    /// Any subdomain; `*.example.com` is stored as `.example.com`.
    Suffix(String),
}

impl HostPattern {
    /// Returns whether `host`, without its port, matches. The `*` stands for one or more labels, as in Envoy and nginx;
    /// the bare domain does not match.
    fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(name) => bare(name.as_bytes()).eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => {
                let suffix = bare(suffix.as_bytes());
                host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
        }
    }
}

/// Conditions of a rule; a condition that is `None` or empty matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Host of the request.
    pub host: Option<HostPattern>,
    /// Server name in the TLS ClientHello; a client without one does not match.
    pub sni: Option<HostPattern>,
    /// Prefix of the path as it is forwarded, compared byte by byte.
    pub path_prefix: Option<String>,
    /// Allowed methods; any of them matches.
    pub methods: Vec<String>,
    /// Header fields (lower-case names) that must each have a line with exactly this value.
    pub headers: Vec<(String, String)>,
}

/// Properties of a request that rules match on, implemented for each protocol.
pub trait RouteInput {
    /// Returns the `Host` header field or the authority as received, possibly with a port; empty if there is none.
    fn host(&self) -> &[u8];
    /// Returns the path as it is forwarded, with its escapes.
    fn path(&self) -> &[u8];
    /// Returns the method as received (methods are case-sensitive).
    fn method(&self) -> &[u8];
    /// Returns the server name in the TLS ClientHello, if there was one.
    fn sni(&self) -> Option<&[u8]> {
        None
    }
    /// Returns whether any line of the header field `lower_name` has exactly this value.
    fn header_is(&self, lower_name: &str, value: &str) -> bool;
}

impl Match {
    /// Returns whether the rule matches a request. It allocates nothing and checks the cheapest condition first.
    pub fn matches(&self, input: &dyn RouteInput) -> bool {
        self.path_prefix.as_ref().is_none_or(|prefix| input.path().starts_with(prefix.as_bytes()))
            && (self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == input.method()))
            && self.host.as_ref().is_none_or(|pattern| pattern.matches(host_name(input.host())))
            && self.sni.as_ref().is_none_or(|p| input.sni().is_some_and(|name| p.matches(bare(name))))
            && self.headers.iter().all(|(name, value)| input.header_is(name, value))
    }
}

/// Returns the index of the first rule that matches a request.
pub fn find_first<'a>(mut rules: impl Iterator<Item = &'a Match>, input: &dyn RouteInput) -> Option<usize> {
    rules.position(|rule| rule.matches(input))
}

/// Returns the name or IP address in a `Host` value, without port, brackets and trailing dot.
pub fn host_name(raw: &[u8]) -> &[u8] {
    if raw.first() == Some(&b'[') {
        return bare(raw);
    }
    let mut colons = raw.iter().enumerate().filter(|&(_, &byte)| byte == b':').map(|(at, _)| at);
    match (colons.next(), colons.next()) {
        (Some(colon), None) => bare(&raw[..colon]),
        // No port, or an IPv6 address that lacks its brackets.
        _ => bare(raw),
    }
}

/// Removes brackets and a trailing dot: `[::1]:80` → `::1`, `example.com.` → `example.com`.
fn bare(host: &[u8]) -> &[u8] {
    if let Some(inside) = host.strip_prefix(b"[")
        && let Some(end) = inside.iter().position(|&byte| byte == b']')
    {
        return &inside[..end];
    }
    host.strip_suffix(b".").unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request<'a> {
        host: &'a str,
        path: &'a str,
        method: &'a str,
        headers: &'a [(&'a str, &'a str)],
    }

    impl RouteInput for Request<'_> {
        fn host(&self) -> &[u8] {
            self.host.as_bytes()
        }
        fn path(&self) -> &[u8] {
            self.path.as_bytes()
        }
        fn method(&self) -> &[u8] {
            self.method.as_bytes()
        }
        fn header_is(&self, lower_name: &str, value: &str) -> bool {
            self.headers.contains(&(lower_name, value))
        }
    }

    const GET: Request<'_> = Request { host: "example.com", path: "/", method: "GET", headers: &[] };

    fn host_matches(pattern: HostPattern, host: &str) -> bool {
        Match { host: Some(pattern), ..Default::default() }.matches(&Request { host, ..GET })
    }

    #[test]
    fn an_empty_rule_matches_every_request() {
        assert!(Match::default().matches(&GET));
        assert!(Match::default().matches(&Request { host: "", path: "", method: "", headers: &[] }));
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_trailing_dot() {
        let exact = |host| host_matches(HostPattern::Exact("example.com".into()), host);
        for host in ["example.com", "EXAMPLE.com", "example.com:8080", "example.com.", "Example.Com.:443"] {
            assert!(exact(host), "{host}");
        }
        for host in
            ["", "example.org", "a.example.com", "example.com.evil", "xexample.com", ":80", "[example.com"]
        {
            assert!(!exact(host), "{host}");
        }
    }

    #[test]
    fn ipv6_literals_keep_their_colons_and_lose_their_port() {
        for pattern in ["::1", "[::1]"] {
            for host in ["[::1]", "[::1]:80", "::1"] {
                assert!(host_matches(HostPattern::Exact(pattern.into()), host), "{pattern} {host}");
            }
            for host in ["[::2]:80", "[", "[]", "[::1", "::", "[::1:80]"] {
                assert!(!host_matches(HostPattern::Exact(pattern.into()), host), "{pattern} {host}");
            }
        }
        assert!(host_matches(HostPattern::Exact("2001:db8::a".into()), "[2001:DB8::A]:8443"));
    }

    #[test]
    fn a_suffix_covers_subdomains_of_any_depth_but_not_the_domain_itself() {
        let suffix = |host| host_matches(HostPattern::Suffix(".example.com".into()), host);
        for host in ["a.example.com", "A.B.Example.com:80", "a.example.com."] {
            assert!(suffix(host), "{host}");
        }
        for host in ["example.com", ".example.com", "badexample.com", "a.example.org", "m", ""] {
            assert!(!suffix(host), "{host}");
        }
    }

    #[test]
    fn a_path_prefix_is_bytes_and_knows_no_segments() {
        let under = |prefix: &str, path| {
            Match { path_prefix: Some(prefix.into()), ..Default::default() }.matches(&Request { path, ..GET })
        };
        assert!(under("/v1", "/v1"));
        assert!(under("/v1", "/v10/x"));
        assert!(under("/v1/", "/v1/x?y"));
        assert!(!under("/v1/", "/v1"));
        assert!(!under("/v1", "/V1"));
        assert!(!under("/v1", "/%761"), "escapes are not undone");
    }

    #[test]
    fn methods_are_alternatives_and_headers_are_demands() {
        let rule = Match {
            methods: vec!["GET".into(), "HEAD".into()],
            headers: vec![("x-tier".into(), "gold".into()), ("x-app".into(), "1".into())],
            ..Default::default()
        };
        let both = &[("x-app", "1"), ("x-tier", "gold")][..];
        assert!(rule.matches(&Request { headers: both, ..GET }));
        assert!(rule.matches(&Request { headers: both, method: "HEAD", ..GET }));
        assert!(!rule.matches(&Request { headers: both, method: "get", ..GET }));
        assert!(!rule.matches(&Request { headers: &both[..1], ..GET }));
    }

    #[test]
    fn the_first_matching_rule_wins() {
        let under = |prefix: &str| Match { path_prefix: Some(prefix.into()), ..Default::default() };
        let rules = [under("/v1/a"), under("/v1"), Match::default()];
        let find = |path| find_first(rules.iter(), &Request { path, ..GET });
        assert_eq!([find("/v1/ab"), find("/v1/b"), find("/")], [Some(0), Some(1), Some(2)]);
        assert_eq!(find_first(rules[..2].iter(), &GET), None);
    }

    #[test]
    fn no_host_value_panics() {
        for seed in 0..20_000 {
            let mut rng = crate::Rng::new(seed);
            let host: String = (0..rng.below(8)).map(|_| ['[', ']', ':', '.', 'a'][rng.index(5)]).collect();
            for pattern in [HostPattern::Exact("a".into()), HostPattern::Suffix(".a".into())] {
                host_matches(pattern, &host);
            }
        }
    }
}
