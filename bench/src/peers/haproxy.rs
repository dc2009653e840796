//! How HAProxy is configured for a job.

use std::io;

use super::{Buffers, Job, Traffic};

pub(super) fn prepare(job: &Job) -> io::Result<Vec<String>> {
    let file = job.write("haproxy.cfg", &configuration(job))?;
    // -db: in the foreground, in one process
    Ok(vec!["-db".to_owned(), "-f".to_owned(), file])
}

fn configuration(job: &Job) -> String {
    let servers = job.each_backend(|index, address| format!("    server s{index} {address}\n"));
    // Two descriptors for each connection, and some of its own.
    let connections = job.open_files.saturating_sub(200) / 2;
    let (mode, features) = match job.traffic {
        Traffic::Http => (
            "http",
            "    option http-keep-alive\n    http-reuse always\n    option forwardfor\n    \
             http-request set-header X-Forwarded-Proto http\n    \
             http-request set-header X-Forwarded-Host %[req.hdr(host)]\n",
        ),
        // No datagrams: see `Peer::carries`.
        Traffic::Tcp | Traffic::Udp => ("tcp", ""),
    };
    // For large replies this is cheaper than splicing; the memory of every busy connection pays for it.
    let buffers = if job.buffers == Buffers::TunedForBulk { "    tune.bufsize 262144\n" } else { "" };
    format!(
        "global\n    maxconn {connections}\n    nbthread {workers}\n{buffers}\
         defaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         frontend web\n    bind {listen}\n    default_backend app\n\
         backend app\n    balance roundrobin\n{features}{servers}",
        workers = job.workers,
        listen = job.listen,
    )
}
