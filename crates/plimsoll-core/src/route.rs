//! Which rule a request falls under.

/// Which hosts a rule is for. Compared without port and case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one, lower case.
    Exact(String),
    /// Any name that ends so; `*.example.com` is kept as `.example.com`.
    Suffix(String),
}

impl HostPattern {
    /// Is `host`, already without its port, one of these? One or more labels stand for the `*`, as in Envoy
    /// and nginx; the bare domain is not its own subdomain.
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

/// Which requests a rule is for; what is `None` or empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The host.
    pub host: Option<HostPattern>,
    /// The name the client asked for in its hello of TLS; a client that named none is not covered.
    pub sni: Option<HostPattern>,
    /// The path starts so, byte for byte, as it is forwarded.
    pub path_prefix: Option<String>,
    /// Any of these methods.
    pub methods: Vec<String>,
    /// Each of these headers (lower-case names) has a line of exactly this value.
    pub headers: Vec<(String, String)>,
}

/// What a rule may ask about a request, in whatever form the protocol at hand keeps it.
pub trait Facts {
    /// The `Host` header or the authority as it came, maybe with a port; empty if there is none.
    fn host(&self) -> &[u8];
    /// The path as it is forwarded, escapes untouched.
    fn path(&self) -> &[u8];
    /// The method, case as it came (methods are case-sensitive).
    fn method(&self) -> &[u8];
    /// The name asked for in the hello of TLS, if there was one.
    fn sni(&self) -> Option<&[u8]> {
        None
    }
    /// Has any line of the header `lower_name` exactly this value?
    fn header_is(&self, lower_name: &str, value: &str) -> bool;
}

impl Match {
    /// Does the rule cover this request? Allocates nothing; the cheapest question comes first.
    pub fn matches(&self, facts: &dyn Facts) -> bool {
        self.path_prefix.as_ref().is_none_or(|prefix| facts.path().starts_with(prefix.as_bytes()))
            && (self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == facts.method()))
            && self.host.as_ref().is_none_or(|pattern| pattern.matches(host_name(facts.host())))
            && self.sni.as_ref().is_none_or(|p| facts.sni().is_some_and(|name| p.matches(bare(name))))
            && self.headers.iter().all(|(name, value)| facts.header_is(name, value))
    }
}

/// The index of the first rule that covers the request.
pub fn first<'a>(mut rules: impl Iterator<Item = &'a Match>, facts: &dyn Facts) -> Option<usize> {
    rules.position(|rule| rule.matches(facts))
}

/// The name or IP address in a `Host` value: no port, no brackets, no trailing dot.
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

/// `[::1]:80` → `::1`, `example.com.` → `example.com`, everything else as it is.
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

    impl Facts for Request<'_> {
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
    fn an_empty_rule_covers_everything() {
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
    fn the_first_rule_that_covers_it_wins() {
        let under = |prefix: &str| Match { path_prefix: Some(prefix.into()), ..Default::default() };
        let rules = [under("/v1/a"), under("/v1"), Match::default()];
        let find = |path| first(rules.iter(), &Request { path, ..GET });
        assert_eq!([find("/v1/ab"), find("/v1/b"), find("/")], [Some(0), Some(1), Some(2)]);
        assert_eq!(first(rules[..2].iter(), &GET), None);
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
