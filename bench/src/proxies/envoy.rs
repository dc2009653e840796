//! Configuration of Envoy. Its buffers grow on demand, so bulk needs no tuning.

use std::io;
use std::net::SocketAddr;

use super::{Http, Setup, Traffic};

pub(super) fn prepare(setup: &Setup) -> io::Result<Vec<String>> {
    let file = setup.write("envoy.yaml", &configuration(setup))?;
    let workers = setup.workers.to_string();
    let arguments = ["-c", &file, "--concurrency", &workers, "--disable-hot-restart", "-l", "warn"];
    Ok(arguments.map(str::to_owned).to_vec())
}

const HTTP: &str = r#"
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: {codec}
          use_remote_address: true
          generate_request_id: false
          common_http_protocol_options: {idle_timeout: 3600s}
          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route: {cluster: app, timeout: 0s}
                request_headers_to_add:
                - header: {key: x-forwarded-host, value: "%REQ(:AUTHORITY)%"}
                  append_action: OVERWRITE_IF_EXISTS_OR_ADD
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
"#;

const TCP: &str = r#"
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: web
          cluster: app
"#;

const UDP: &str = r#"
    - name: envoy.filters.udp_listener.udp_proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
        stat_prefix: web
        idle_timeout: 3600s
        matcher:
          on_no_match:
            action:
              name: route
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route
                cluster: app
"#;

const HTTP2_TO_BACKENDS: &str = r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

fn configuration(setup: &Setup) -> String {
    let filters = match setup.traffic {
        Traffic::Http { front: Http::One, .. } => HTTP.replace("{codec}", "HTTP1"),
        Traffic::Http { front: Http::Two, .. } => HTTP.replace("{codec}", "HTTP2"),
        Traffic::Tcp | Traffic::Mqtt => TCP.to_owned(),
        Traffic::Udp => UDP.to_owned(),
    };
    let over = match setup.traffic {
        Traffic::Http { back: Http::Two, .. } => HTTP2_TO_BACKENDS,
        _ => "",
    };
    let (kind, transport) = match setup.traffic {
        Traffic::Udp => ("listener_filters:", "protocol: UDP, "),
        _ => ("filter_chains:\n    - filters:", ""),
    };
    let endpoints =
        setup.each_backend(|_, address| format!("        - endpoint: {{address: {}}}\n", place(address, "")));
    format!(
        "static_resources:\n  listeners:\n  - name: web\n    address: {listen}\n    \
         {kind}{filters}{tls}  \
         clusters:\n  - name: app\n    type: STATIC\n    lb_policy: ROUND_ROBIN\n    connect_timeout: 5s\n    \
         circuit_breakers:\n      thresholds:\n      - max_connections: 100000\n        \
         max_pending_requests: 100000\n        max_requests: 100000\n{over}    \
         load_assignment:\n      cluster_name: app\n      endpoints:\n      - lb_endpoints:\n{endpoints}",
        listen = place(setup.listen, transport),
        tls = tls(setup),
    )
}

/// TLS context of the listener.
fn tls(setup: &Setup) -> String {
    let Some(certificate) = setup.certificate else { return String::new() };
    let alpn = match setup.traffic {
        Traffic::Http { front: Http::Two, .. } => "            alpn_protocols: [h2]\n",
        _ => "",
    };
    format!(
        "      transport_socket:\n        name: envoy.transport_sockets.tls\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
         common_tls_context:\n            \
         tls_params: {{tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}}\n{alpn}            \
         tls_certificates:\n            - certificate_chain: {{filename: \"{}\"}}\n              \
         private_key: {{filename: \"{}\"}}\n",
        certificate.cert.display(),
        certificate.key.display(),
    )
}

fn place(address: SocketAddr, transport: &str) -> String {
    format!("{{socket_address: {{{transport}address: {}, port_value: {}}}}}", address.ip(), address.port())
}
