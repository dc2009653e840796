//! How Plimsoll is configured for a job: its defaults, and nothing tuned.

use std::io;

use super::{Http, Job, Traffic};

pub(super) fn prepare(job: &Job) -> io::Result<Vec<String>> {
    let file = job.write("plimsoll.yaml", &configuration(job))?;
    Ok(vec!["run".to_owned(), "-c".to_owned(), file])
}

fn configuration(job: &Job) -> String {
    let protocol = match (job.traffic, job.certificate) {
        (Traffic::Http { .. }, None) => "http",
        (Traffic::Http { .. }, Some(_)) => "https",
        (Traffic::Tcp, None) => "tcp",
        (Traffic::Tcp, Some(_)) => "tls",
        (Traffic::Udp, _) => "udp",
        (Traffic::Mqtt, _) => "mqtt",
    };
    let tls = job.certificate.map_or(String::new(), |certificate| {
        let (cert, key) = (certificate.cert.display(), certificate.key.display());
        format!(", tls: {{certificates: [{{cert: \"{cert}\", key: \"{key}\"}}]}}")
    });
    let pool = match job.traffic {
        Traffic::Http { back: Http::Two, .. } => "    protocol: http2\n",
        _ => "",
    };
    let destinations: Vec<String> = job.backends.iter().map(|address| format!("\"{address}\"")).collect();
    let Job { listen, admin, workers, .. } = job;
    format!(
        "workers: {workers}\n\
         admin: {{address: \"{admin}\"}}\n\
         listeners:\n  - {{name: web, address: \"{listen}\", protocol: {protocol}{tls}, pool: app}}\n\
         pools:\n  app:\n{pool}    load_balancer: {{algorithm: round_robin}}\n    destinations: [{}]\n",
        destinations.join(", "),
    )
}
