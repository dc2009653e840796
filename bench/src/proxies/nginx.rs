//! Configuration of nginx.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Buffers, Http, Setup, Traffic};

pub(super) fn prepare(program: &Path, setup: &Setup) -> io::Result<Vec<String>> {
    let module = match setup.traffic {
        Traffic::Http { .. } => String::new(),
        Traffic::Tcp | Traffic::Udp | Traffic::Mqtt => stream_module(program)?,
    };
    let file = setup.write("nginx.conf", &configuration(setup, &module))?;
    let folder = setup.folder.to_string_lossy().into_owned();
    let log = setup.folder.join("error.log").to_string_lossy().into_owned();
    Ok(vec!["-p".to_owned(), folder, "-e".to_owned(), log, "-c".to_owned(), file])
}

fn configuration(setup: &Setup, module: &str) -> String {
    let Setup { workers, open_files, .. } = setup;
    let master = if setup.single_process { "off" } else { "on" };
    let user = user();
    let service = match setup.traffic {
        Traffic::Http { front, back } => http(setup, front, back),
        Traffic::Tcp | Traffic::Udp | Traffic::Mqtt => stream(setup),
    };
    format!(
        "{module}{user}daemon off;\nmaster_process {master};\nworker_processes {workers};\n\
         worker_rlimit_nofile {open_files};\npid nginx.pid;\n\
         events {{ worker_connections {open_files}; }}\n{service}"
    )
}

/// Returns the command line of an nginx as backend: files for the paths of the HTTP/1.1 scenarios, or one
/// path from memory for HTTP/2 by prior knowledge.
pub(super) fn backend(
    program: &Path,
    version: Http,
    addresses: &[SocketAddr],
    open_files: u64,
    folder: &Path,
) -> io::Result<Vec<String>> {
    let (tls, site) = match version {
        Http::One => ("", files(folder)?),
        Http::Two => (" http2", format!("        location = /128 {{ return 200 {}; }}\n", "x".repeat(128))),
    };
    let listen: String =
        addresses.iter().map(|address| format!("        listen {address} backlog=4096{tls};\n")).collect();
    let configuration = format!(
        "{user}daemon off;\nworker_processes 1;\nworker_rlimit_nofile {open_files};\npid nginx.pid;\n\
         events {{ worker_connections {open_files}; }}\nhttp {{\n    access_log off;\n    sendfile on;\n    \
         tcp_nodelay on;\n    keepalive_timeout 3600s;\n    keepalive_requests 1000000000;\n    \
         open_file_cache max=100;\n{temporary}    server {{\n{listen}{site}    }}\n}}\n",
        user = user(),
        temporary = temporary_folders(),
    );
    let file = folder.join("backend.conf");
    fs::write(&file, configuration)?;
    Ok([&program.to_string_lossy(), "-p", &folder.to_string_lossy(), "-c", &file.to_string_lossy()]
        .map(str::to_owned)
        .to_vec())
}

/// Writes the files of the backend and returns the directive that serves them.
fn files(folder: &Path) -> io::Result<String> {
    fs::create_dir_all(folder.join("site/headers"))?;
    for (path, length) in [("0", 0), ("128", 128), ("1m", 1 << 20), ("headers/128", 128)] {
        fs::write(folder.join("site").join(path), vec![b'x'; length])?;
    }
    Ok(format!("        root {};\n", folder.join("site").display()))
}

fn http(setup: &Setup, front: Http, back: Http) -> String {
    let servers = setup.each_backend(|_, address| format!("        server {address};\n"));
    let temporary = temporary_folders();
    // Without buffering, one large buffer carries the reply; nginx requires the others to be large as well.
    let buffers = if setup.buffers == Buffers::TunedForBulk {
        "    proxy_buffering off;\n    proxy_buffer_size 256k;\n    proxy_buffers 4 256k;\n    \
         proxy_busy_buffers_size 512k;\n"
    } else {
        ""
    };
    let (tls, files) = match setup.certificate {
        Some(certificate) => (
            " ssl",
            format!(
                "        ssl_protocols TLSv1.2 TLSv1.3;\n        ssl_certificate {};\n        \
                 ssl_certificate_key {};\n",
                certificate.cert.display(),
                certificate.key.display()
            ),
        ),
        None => ("", String::new()),
    };
    let tls = if front == Http::Two { format!("{tls} http2") } else { tls.to_owned() };
    // Only nginx's gRPC module uses HTTP/2 to backends; it forwards any request.
    let (kind, pass) = match back {
        Http::One => {
            let pass = "            proxy_pass http://app;\n            proxy_http_version 1.1;\n            \
                        proxy_set_header Connection \"\";\n";
            ("proxy", pass)
        }
        Http::Two => ("grpc", "            grpc_pass grpc://app;\n"),
    };
    format!(
        "http {{\n    access_log off;\n    tcp_nodelay on;\n    keepalive_timeout 3600s;\n    \
         keepalive_requests 1000000000;\n    proxy_max_temp_file_size 0;\n{temporary}{buffers}    \
         upstream app {{\n{servers}        keepalive 1024;\n        keepalive_requests 1000000000;\n        \
         keepalive_timeout 3600s;\n    }}\n    \
         server {{\n        listen {listen} backlog=4096{tls};\n{files}        location / {{\n{pass}            \
         {kind}_set_header Host $http_host;\n            \
         {kind}_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n            \
         {kind}_set_header X-Forwarded-Proto $scheme;\n            \
         {kind}_set_header X-Forwarded-Host $http_host;\n        }}\n    }}\n}}\n",
        listen = setup.listen,
    )
}

fn stream(setup: &Setup) -> String {
    let servers = setup.each_backend(|_, address| format!("        server {address};\n"));
    let buffer = if setup.buffers == Buffers::TunedForBulk { "    proxy_buffer_size 256k;\n" } else { "" };
    let how = if setup.traffic == Traffic::Udp { "udp" } else { "backlog=4096" };
    format!(
        "stream {{\n    tcp_nodelay on;\n    proxy_timeout 3600s;\n{buffer}    \
         upstream app {{\n{servers}    }}\n    \
         server {{\n        listen {listen} {how};\n        proxy_pass app;\n    }}\n}}\n",
        listen = setup.listen,
    )
}

/// Returns the user directive: as root, nginx would run workers as a user without access to the folder of
/// this run.
pub(crate) fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user root;\n" } else { "" }
}

fn temporary_folders() -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .concat()
}

/// Returns the directive that loads the stream module where it is built separately (Debian: the package
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
