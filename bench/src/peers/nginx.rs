//! How nginx is configured for a job.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Buffers, Job, Traffic};

pub(super) fn prepare(program: &Path, job: &Job) -> io::Result<Vec<String>> {
    let module = match job.traffic {
        Traffic::Http => String::new(),
        Traffic::Tcp | Traffic::Udp => stream_module(program)?,
    };
    let file = job.write("nginx.conf", &configuration(job, &module))?;
    let folder = job.folder.to_string_lossy().into_owned();
    let log = job.folder.join("error.log").to_string_lossy().into_owned();
    Ok(vec!["-p".to_owned(), folder, "-e".to_owned(), log, "-c".to_owned(), file])
}

fn configuration(job: &Job, module: &str) -> String {
    let Job { workers, open_files, .. } = job;
    let master = if job.single_process { "off" } else { "on" };
    let user = user();
    let service = match job.traffic {
        Traffic::Http => http(job),
        Traffic::Tcp | Traffic::Udp => stream(job),
    };
    format!(
        "{module}{user}daemon off;\nmaster_process {master};\nworker_processes {workers};\n\
         worker_rlimit_nofile {open_files};\npid nginx.pid;\n\
         events {{ worker_connections {open_files}; }}\n{service}"
    )
}

/// The command line of an nginx that answers the paths of the HTTP scenarios from files: a backend that is no
/// work of ours, at a higher price.
pub(crate) fn serve_files(
    program: &Path,
    addresses: &[SocketAddr],
    open_files: u64,
    folder: &Path,
) -> io::Result<Vec<String>> {
    fs::create_dir_all(folder.join("site/headers"))?;
    for (path, length) in [("0", 0), ("128", 128), ("1m", 1 << 20), ("headers/128", 128)] {
        fs::write(folder.join("site").join(path), vec![b'x'; length])?;
    }
    let listen: String =
        addresses.iter().map(|address| format!("        listen {address} backlog=4096;\n")).collect();
    let configuration = format!(
        "{user}daemon off;\nworker_processes 1;\nworker_rlimit_nofile {open_files};\npid nginx.pid;\n\
         events {{ worker_connections {open_files}; }}\nhttp {{\n    access_log off;\n    sendfile on;\n    \
         tcp_nodelay on;\n    keepalive_timeout 3600s;\n    keepalive_requests 1000000000;\n    \
         open_file_cache max=100;\n{temporary}    server {{\n{listen}        root {site};\n    }}\n}}\n",
        user = user(),
        temporary = temporary_folders(),
        site = folder.join("site").display(),
    );
    let file = folder.join("backend.conf");
    fs::write(&file, configuration)?;
    Ok([&program.to_string_lossy(), "-p", &folder.to_string_lossy(), "-c", &file.to_string_lossy()]
        .map(str::to_owned)
        .to_vec())
}

fn http(job: &Job) -> String {
    let servers = job.each_backend(|_, address| format!("        server {address};\n"));
    let temporary = temporary_folders();
    // Unbuffered, one large buffer carries the reply; nginx wants the others large as well.
    let buffers = if job.buffers == Buffers::TunedForBulk {
        "    proxy_buffering off;\n    proxy_buffer_size 256k;\n    proxy_buffers 4 256k;\n    \
         proxy_busy_buffers_size 512k;\n"
    } else {
        ""
    };
    format!(
        "http {{\n    access_log off;\n    tcp_nodelay on;\n    keepalive_timeout 3600s;\n    \
         keepalive_requests 1000000000;\n    proxy_max_temp_file_size 0;\n{temporary}{buffers}    \
         upstream app {{\n{servers}        keepalive 1024;\n        keepalive_requests 1000000000;\n        \
         keepalive_timeout 3600s;\n    }}\n    \
         server {{\n        listen {listen} backlog=4096;\n        location / {{\n            \
         proxy_pass http://app;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            \
         proxy_set_header Host $http_host;\n            \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n            \
         proxy_set_header X-Forwarded-Proto $scheme;\n            \
         proxy_set_header X-Forwarded-Host $http_host;\n        }}\n    }}\n}}\n",
        listen = job.listen,
    )
}

fn stream(job: &Job) -> String {
    let servers = job.each_backend(|_, address| format!("        server {address};\n"));
    let buffer = if job.buffers == Buffers::TunedForBulk { "    proxy_buffer_size 256k;\n" } else { "" };
    let how = if job.traffic == Traffic::Udp { "udp" } else { "backlog=4096" };
    format!(
        "stream {{\n    tcp_nodelay on;\n    proxy_timeout 3600s;\n{buffer}    \
         upstream app {{\n{servers}    }}\n    \
         server {{\n        listen {listen} {how};\n        proxy_pass app;\n    }}\n}}\n",
        listen = job.listen,
    )
}

/// Started by root, nginx would run its workers as a user who may not enter the folder of this run.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user root;\n" } else { "" }
}

fn temporary_folders() -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .concat()
}

/// The line that loads the stream module, where it is built as a module of its own (Debian: the package
/// libnginx-mod-stream).
fn stream_module(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("-V").output()?;
    let built = String::from_utf8_lossy(&output.stderr).into_owned();
    if !built.contains("--with-stream=dynamic") {
        return Ok(String::new());
    }
    let folder = built.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    let module = PathBuf::from(folder.unwrap_or("modules")).join("ngx_stream_module.so");
    if !module.is_file() {
        return Err(io::Error::other(format!("nginx balances TCP only with its stream module, {module:?}")));
    }
    Ok(format!("load_module {};\n", module.display()))
}
