//! Proxies with the policies that are compared, and their configurations.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;

use crate::proxies::{Programs, Proxy, nginx_user};

/// Proxy with a policy, written as `proxy` or `proxy:policy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProxyPolicy {
    pub(super) proxy: Proxy,
    /// Policy from `POLICIES`, or an algorithm of Plimsoll; empty for the default.
    policy: String,
}

/// Policies of each proxy; the first is the best one that we found.
const POLICIES: [(Proxy, &[&str]); 3] = [
    (Proxy::Nginx, &["least_conn", "random", "round_robin"]),
    (Proxy::Haproxy, &["leastconn", "random", "roundrobin"]),
    (Proxy::Envoy, &["full_scan", "least_request", "round_robin", "hedge"]),
];

/// Policy of Plimsoll that switches hedging on.
const HEDGE: &str = "hedge";

/// Addresses and workers of a proxy in one round.
pub(super) struct Placement<'a> {
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) destinations: &'a [SocketAddr],
    pub(super) workers: usize,
    pub(super) folder: &'a Path,
}

impl ProxyPolicy {
    /// Parses the command-line form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (proxy, policy) = text.split_once(':').unwrap_or((text, ""));
        let proxy = Proxy::from_str(proxy, true)?;
        let known = POLICIES.iter().find(|(of, _)| *of == proxy);
        match (proxy, known) {
            (Proxy::Plimsoll, _) => Ok(Self { proxy, policy: policy.to_owned() }),
            (_, Some((_, known))) if policy.is_empty() || known.contains(&policy) => {
                let policy = if policy.is_empty() { known[0] } else { policy };
                Ok(Self { proxy, policy: policy.to_owned() })
            }
            (_, Some((_, known))) => {
                Err(format!("{} has no policy '{policy}'; there are: {}", proxy.name(), known.join(", ")))
            }
            (_, None) => Err(format!("{} does not choose among destinations", proxy.name())),
        }
    }

    /// Returns Plimsoll with an algorithm.
    pub(super) fn with_algorithm(algorithm: &str) -> Self {
        Self { proxy: Proxy::Plimsoll, policy: algorithm.to_owned() }
    }

    pub(super) fn name(&self) -> String {
        match self.policy.as_str() {
            "" => format!("{} (default)", self.proxy.name()),
            policy => format!("{} {policy}", self.proxy.name()),
        }
    }

    pub(super) fn is_competitor(&self) -> bool {
        self.proxy != Proxy::Plimsoll
    }

    /// Returns whether the policy sends hedged requests.
    pub(super) fn hedges(&self) -> bool {
        self.policy.split('+').any(|word| word == HEDGE)
    }

    /// Writes the configuration and returns the command line that runs it in the foreground.
    pub(super) fn prepare(&self, programs: &Programs, place: &Placement) -> io::Result<Vec<String>> {
        let program = self.proxy.program(programs);
        let program =
            program.ok_or_else(|| io::Error::other(format!("{} is not installed", self.proxy.name())))?;
        let policy = self.policy.as_str();
        let (file, text) = match self.proxy {
            Proxy::Nginx => ("nginx.conf", nginx(place, policy)),
            Proxy::Haproxy => ("haproxy.cfg", haproxy(place, policy)),
            Proxy::Envoy => ("envoy.yaml", envoy(place, policy)),
            Proxy::Plimsoll | Proxy::Baseline => ("plimsoll.yaml", plimsoll(place, policy)),
        };
        let path = place.folder.join(file);
        fs::write(&path, text)?;
        let path = path.to_string_lossy().into_owned();
        let folder = place.folder.to_string_lossy().into_owned();
        let workers = place.workers.to_string();
        let arguments = match self.proxy {
            Proxy::Nginx => vec!["-p", &folder, "-e", "error.log", "-c", &path],
            Proxy::Haproxy => vec!["-db", "-f", &path],
            Proxy::Envoy => {
                vec!["-c", &path, "--concurrency", &workers, "--disable-hot-restart", "-l", "error"]
            }
            Proxy::Plimsoll | Proxy::Baseline => vec!["run", "-c", &path],
        };
        Ok(std::iter::once(&*program.to_string_lossy()).chain(arguments).map(str::to_owned).collect())
    }
}

impl Placement<'_> {
    /// Concatenates one line per destination.
    fn each(&self, line: impl Fn(usize, SocketAddr) -> String) -> String {
        self.destinations.iter().enumerate().map(|(index, &address)| line(index, address)).collect()
    }
}

/// Configures listener and destinations only, so that the defaults are measured. `hedge` may follow an
/// algorithm after `+`.
fn plimsoll(place: &Placement, policy: &str) -> String {
    let hedge = policy.split('+').any(|word| word == HEDGE);
    let algorithm = policy.split('+').find(|word| !word.is_empty() && *word != HEDGE);
    let algorithm = algorithm.map(|algorithm| format!("    algorithm: {algorithm}\n")).unwrap_or_default();
    let hedge = if hedge { "    hedge: {after: p95, max: 1}\n" } else { "" };
    let balancer = match (algorithm.as_str(), hedge) {
        ("", "") => String::new(),
        _ => format!("    load_balancer:\n  {}", (algorithm + hedge).replace("\n    ", "\n      ")),
    };
    format!(
        "workers: {workers}\nadmin: {{address: \"{admin}\"}}\n\
         listeners:\n  - {{name: web, address: \"{listen}\", protocol: http, pool: app}}\n\
         pools:\n  app:\n{balancer}    destinations:\n{destinations}",
        workers = place.workers,
        admin = place.admin,
        listen = place.listen,
        destinations = place.each(|_, address| format!("      - \"{address}\"\n")),
    )
}

/// Configures one shared memory zone for all workers; failed requests go to another server at once, and one
/// failure marks a server as failed for ten seconds, as shipped.
fn nginx(place: &Placement, policy: &str) -> String {
    let policy = match policy {
        "least_conn" => "        least_conn;\n",
        "random" => "        random two least_conn;\n",
        _ => "",
    };
    format!(
        "{user}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 65536;\npid nginx.pid;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n    access_log off;\n    tcp_nodelay on;\n    \
         keepalive_timeout 3600s;\n    keepalive_requests 1000000000;\n    \
         client_body_temp_path client_body;\n    proxy_temp_path proxy;\n    fastcgi_temp_path fastcgi;\n    \
         uwsgi_temp_path uwsgi;\n    scgi_temp_path scgi;\n    upstream app {{\n        zone app 1m;\n{policy}{servers}        \
         keepalive 1024;\n        keepalive_requests 1000000000;\n        keepalive_timeout 3600s;\n    }}\n    \
         server {{\n        listen {listen} backlog=4096{reuse};\n        location / {{\n            \
         proxy_pass http://app;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            proxy_set_header Host $http_host;\n            \
         proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent;\n            \
         proxy_next_upstream_tries 3;\n        }}\n    }}\n}}\n",
        user = nginx_user(),
        workers = place.workers,
        listen = place.listen,
        reuse = if place.workers > 1 { " reuseport" } else { "" },
        servers =
            place.each(|_, address| format!("        server {address} max_fails=1 fail_timeout=10s;\n")),
    )
}

/// Configures HTTP checks every second, observation of traffic errors, and retries on another server.
fn haproxy(place: &Placement, policy: &str) -> String {
    let policy = if policy == "random" { "random(2)" } else { policy };
    format!(
        "global\n    maxconn 8192\n    nbthread {workers}\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n    \
         timeout check 1s\n\
         frontend web\n    bind {listen}\n    default_backend app\n\
         backend app\n    balance {policy}\n    option http-keep-alive\n    http-reuse always\n    \
         option httpchk GET /healthz\n    option redispatch 1\n    retries 3\n    \
         retry-on conn-failure empty-response response-timeout 502 503 504\n    \
         default-server check inter 1s fall 2 rise 2 observe layer7 error-limit 5 on-error mark-down\n{servers}",
        workers = place.workers,
        listen = place.listen,
        servers = place.each(|index, address| format!("    server s{index} {address}\n")),
    )
}

/// Configures ejection after consecutive errors, HTTP checks every second, and retries on another host within
/// a budget. `hedge` sends a second request after 50 ms.
fn envoy(place: &Placement, policy: &str) -> String {
    let balancing = match policy {
        "round_robin" => "    lb_policy: ROUND_ROBIN\n",
        "least_request" => "    lb_policy: LEAST_REQUEST\n    least_request_lb_config: {choice_count: 2}\n",
        _ => FULL_SCAN,
    };
    let hedge = match policy {
        HEDGE => "\n                  hedge_policy: {hedge_on_per_try_timeout: true}",
        _ => "",
    };
    let try_timeout = if policy == HEDGE { "per_try_timeout: 0.05s, " } else { "" };
    let text = ENVOY
        .replace("{balancing}", balancing)
        .replace("{hedge}", hedge)
        .replace("{try_timeout}", try_timeout);
    let text = text.replace("{listen}", &socket_address(place.listen));
    text + &place.each(|_, address| format!("        - endpoint: {{address: {}}}\n", socket_address(address)))
}

fn socket_address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

const FULL_SCAN: &str = r#"    load_balancing_policy:
      policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.least_request
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
            selection_method: FULL_SCAN
"#;

const ENVOY: &str = r#"static_resources:
  listeners:
  - name: web
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: false
          common_http_protocol_options: {idle_timeout: 3600s}
          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route:
                  cluster: app
                  timeout: 0s{hedge}
                  retry_policy:
                    {{try_timeout}retry_on: "5xx,reset,connect-failure,refused-stream", num_retries: 3, host_selection_retry_max_attempts: 5, retry_back_off: {base_interval: 0.001s, max_interval: 0.005s}, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: app
    type: STATIC
{balancing}    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - max_connections: 100000
        max_pending_requests: 100000
        max_requests: 100000
        retry_budget: {budget_percent: {value: 20}, min_retry_concurrency: 10}
    outlier_detection: {consecutive_5xx: 5, interval: 1s, base_ejection_time: 30s, max_ejection_percent: 50}
    health_checks:
    - {timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, no_traffic_interval: 1s, http_health_check: {path: /healthz}}
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_parses_with_its_best_policy_or_the_given_one() {
        let name = |text| ProxyPolicy::parse(text).map(|proxy| proxy.name());
        assert_eq!(name("nginx"), Ok("nginx least_conn".to_owned()));
        assert_eq!(name("haproxy:random"), Ok("haproxy random".to_owned()));
        assert_eq!(name("plimsoll"), Ok("plimsoll (default)".to_owned()));
        assert_eq!(name("plimsoll:p2c+hedge"), Ok("plimsoll p2c+hedge".to_owned()));
        assert!(name("nginx:fastest").is_err_and(|error| error.contains("least_conn")));
        assert!(name("baseline").is_err());
    }

    #[test]
    fn the_default_of_plimsoll_configures_no_balancing() {
        let destinations = [SocketAddr::from(([127, 0, 0, 1], 3))];
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let folder = Path::new(".");
        let place =
            Placement { listen: address, admin: address, destinations: &destinations, workers: 1, folder };
        assert!(!plimsoll(&place, "").contains("load_balancer"));
        let both = plimsoll(&place, "p2c+hedge");
        let expected =
            "    load_balancer:\n      algorithm: p2c\n      hedge: {after: p95, max: 1}\n    dest";
        assert!(both.contains(expected), "{both}");
        assert!(plimsoll(&place, "hedge").contains("    load_balancer:\n      hedge: {"));
    }
}
