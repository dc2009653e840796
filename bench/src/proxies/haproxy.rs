//! Configuration of HAProxy.

use std::io;

use super::{Buffers, Http, Setup, Traffic};

pub(super) fn prepare(setup: &Setup) -> io::Result<Vec<String>> {
    let file = setup.write("haproxy.cfg", &configuration(setup))?;
    // Option -db: foreground, one process.
    Ok(vec!["-db".to_owned(), "-f".to_owned(), file])
}

fn configuration(setup: &Setup) -> String {
    let over = if matches!(setup.traffic, Traffic::Http { back: Http::Two, .. }) { " proto h2" } else { "" };
    let servers = setup.each_backend(|index, address| format!("    server s{index} {address}{over}\n"));
    // Two descriptors for each connection, and some of its own.
    let connections = setup.open_files.saturating_sub(200) / 2;
    let scheme = if setup.certificate.is_some() { "https" } else { "http" };
    let (mode, features) = match setup.traffic {
        Traffic::Http { .. } => (
            "http",
            format!(
                "    option http-keep-alive\n    http-reuse always\n    option forwardfor\n    \
                 http-request set-header X-Forwarded-Proto {scheme}\n    \
                 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n"
            ),
        ),
        Traffic::Mqtt => (
            "tcp",
            "    tcp-request inspect-delay 5s\n    tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }\n    \
             stick-table type string len 64 size 100k expire 1h\n    \
             stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)\n"
                .to_owned(),
        ),
        // HAProxy forwards no datagrams: see `Scenario::without`.
        Traffic::Tcp | Traffic::Udp => ("tcp", String::new()),
    };
    // Cheaper than splicing for large replies, at the price of memory per busy connection.
    let buffers = if setup.buffers == Buffers::TunedForBulk { "    tune.bufsize 262144\n" } else { "" };
    format!(
        "global\n    maxconn {connections}\n    nbthread {workers}\n{buffers}\
         defaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         frontend web\n    bind {listen}{tls}\n    default_backend app\n\
         backend app\n    balance roundrobin\n{features}{servers}",
        workers = setup.workers,
        listen = setup.listen,
        tls = tls(setup),
    )
}

/// TLS and protocol options of the listener.
fn tls(setup: &Setup) -> String {
    let two = matches!(setup.traffic, Traffic::Http { front: Http::Two, .. });
    match setup.certificate {
        None if two => " proto h2".to_owned(),
        None => String::new(),
        Some(certificate) => {
            let alpn = if two { " alpn h2,http/1.1" } else { "" };
            format!(" ssl crt {} ssl-min-ver TLSv1.2{alpn}", certificate.pair.display())
        }
    }
}
