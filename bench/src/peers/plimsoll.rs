//! How Plimsoll is configured for a job: its defaults, and nothing tuned.

use std::io;

use super::{Job, Traffic};

pub(super) fn prepare(job: &Job) -> io::Result<Vec<String>> {
    let file = job.write("plimsoll.yaml", &configuration(job))?;
    Ok(vec!["run".to_owned(), "-c".to_owned(), file])
}

fn configuration(job: &Job) -> String {
    let protocol = match job.traffic {
        Traffic::Http => "http",
        Traffic::Tcp => "tcp",
        Traffic::Udp => "udp",
    };
    let destinations: Vec<String> = job.backends.iter().map(|address| format!("\"{address}\"")).collect();
    let Job { listen, admin, workers, .. } = job;
    format!(
        "workers: {workers}\n\
         admin: {{address: \"{admin}\"}}\n\
         listeners:\n  - {{name: web, address: \"{listen}\", protocol: {protocol}, pool: app}}\n\
         pools:\n  app:\n    load_balancer: {{algorithm: round_robin}}\n    destinations: [{}]\n",
        destinations.join(", "),
    )
}
