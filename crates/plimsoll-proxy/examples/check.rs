//! A custom health check: Redis-like stores serve only while they accept writes.
//!
//! ```text
//! balancer: ROLE\r\n
//! store:    *3\r\n$6\r\nmaster\r\n…     (a replica sends `slave`)
//! ```

use std::pin::Pin;

use plimsoll_config::{Extensions, load_with};
use plimsoll_proxy::adapter::{Adapters, Check, CheckContext, CheckFailure};
use plimsoll_proxy::{ConfigSource, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Number of bytes of a response that contain the role.
const ROLE_BYTES: usize = 64;

#[derive(Debug)]
struct Writable;

impl Check for Writable {
    fn name(&self) -> &'static str {
        "writable"
    }

    fn check(&self, context: CheckContext) -> Pin<Box<dyn Future<Output = Result<(), CheckFailure>> + Send>> {
        Box::pin(async move {
            let mut store = context.connect().await?;
            store.write_all(b"ROLE\r\n").await.map_err(|error| error.to_string())?;
            let mut response = Vec::new();
            while response.iter().filter(|&&byte| byte == b'\n').count() < 3 && response.len() < ROLE_BYTES {
                match store.read_buf(&mut response).await.map_err(|error| error.to_string())? {
                    0 => return Err("closed before the response".into()),
                    _more => {}
                }
            }
            let line = String::from_utf8_lossy(&response).lines().nth(2).unwrap_or_default().to_owned();
            if line == "master" { Ok(()) } else { Err(format!("its role is `{line}`").into()) }
        })
    }
}

/// Starts a proxy that supports the check `writable`.
async fn start(file: String) -> Result<Proxy, Box<dyn std::error::Error>> {
    let adapters = Adapters::built_in().with_check(Writable);
    let extensions = Extensions { checks: adapters.check_names(), ..Extensions::default() };
    let read = move || {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = load_with(&file, "stores.yaml", ".".as_ref(), &env, &extensions);
        let text = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
        loaded.config.ok_or_else(|| text.as_str().into())
    };
    let config = read().map_err(|invalid: plimsoll_proxy::InvalidConfig| invalid.text)?;
    let source: ConfigSource = Box::new(read);
    Ok(Proxy::start(config, source, adapters).await?)
}

const FILE: &str = r#"
listeners:
  - {name: stores, address: "127.0.0.1:6379", protocol: tcp, pool: stores}
pools:
  stores:
    load_balancer: {health_monitoring: {protocol: writable, check_interval: 1s}}
    destinations: ["127.0.0.1:6380", "127.0.0.1:6381"]
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _proxy = start(FILE.to_owned()).await?;
        println!("forwarding 127.0.0.1:6379 to the writable store; stop with Ctrl-C");
        Ok(tokio::signal::ctrl_c().await?)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    /// Starts a store that sends its role in response to ROLE.
    fn store(role: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut received = [0; 6];
                    if stream.read_exact(&mut received).is_ok() && &received == b"ROLE\r\n" {
                        let _gone = write!(stream, "*3\r\n${}\r\n{role}\r\n:0\r\n", role.len());
                    }
                });
            }
        });
        address
    }

    fn file(protocol: &str, stores: &[String]) -> String {
        format!(
            "admin: false\nlisteners: [{{name: s, address: \"127.0.0.1:0\", protocol: tcp, pool: p}}]\n\
             pools: {{p: {{load_balancer: {{health_monitoring: {{protocol: {protocol}, check_interval: 50ms}}}}, \
             destinations: {stores:?}}}}}"
        )
    }

    #[test]
    fn only_the_writable_store_serves() {
        let stores = [store("master"), store("slave")];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let proxy = start(file("writable", &stores)).await.unwrap();
            for _ in 0..400 {
                let pool = proxy.handle().pools().await.remove(0);
                let [master, replica] = &pool.destinations[..] else { panic!("two") };
                if replica.checks.failed > 0 && master.checks.passed > 1 {
                    assert!(master.status.serves() && replica.status.as_str() == "down");
                    let check = replica.report.as_ref().and_then(|r| r.last_check.clone()).unwrap();
                    assert_eq!((check.detail(), pool.check_type), ("its role is `slave`", Some("writable")));
                    return;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("no check of the replica failed");
        });
    }

    #[test]
    fn unregistered_check_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(start(file("readable", &[store("master")]))).unwrap_err();
        assert!(refused.to_string().contains("readable"), "{refused}");
    }
}
