//! Configuration of Plimsoll: its defaults, without tuning.

use std::io;

use super::{Http, Setup, Traffic};

pub(super) fn prepare(setup: &Setup) -> io::Result<Vec<String>> {
    let file = setup.write("plimsoll.yaml", &configuration(setup))?;
    Ok(vec!["run".to_owned(), "-c".to_owned(), file])
}

fn configuration(setup: &Setup) -> String {
    let protocol = match (setup.traffic, setup.certificate) {
        (Traffic::Http { .. }, None) => "http",
        (Traffic::Http { .. }, Some(_)) => "https",
        (Traffic::Tcp, None) => "tcp",
        (Traffic::Tcp, Some(_)) => "tls",
        (Traffic::Udp, _) => "udp",
        (Traffic::Mqtt, _) => "mqtt",
    };
    let tls = setup.certificate.map_or(String::new(), |certificate| {
        let (cert, key) = (certificate.cert.display(), certificate.key.display());
        format!(", tls: {{certificates: [{{cert: \"{cert}\", key: \"{key}\"}}]}}")
    });
    let pool = match setup.traffic {
        Traffic::Http { back: Http::Two, .. } => "    protocol: http2\n",
        _ => "",
    };
    let destinations: Vec<String> = setup.backends.iter().map(|address| format!("\"{address}\"")).collect();
    let Setup { listen, admin, workers, .. } = setup;
    format!(
        "workers: {workers}\n\
         admin: {{address: \"{admin}\"}}\n\
         listeners:\n  - {{name: web, address: \"{listen}\", protocol: {protocol}{tls}, pool: app}}\n\
         pools:\n  app:\n{pool}    load_balancer: {{algorithm: round_robin}}\n    destinations: [{}]\n",
        destinations.join(", "),
    )
}
