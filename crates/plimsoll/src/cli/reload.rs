//! What a reload came to.

use super::admin_client::ask;
use super::terminal::{complain, say};
use super::{DOWN, FAILED, OK};

/// `plimsoll reload`.
pub(crate) fn run(admin: &str) -> u8 {
    let reply = match ask(admin, "POST", "/v1/config:reload") {
        Ok(reply) => reply,
        Err(error) => {
            complain(&error.to_string());
            return DOWN;
        }
    };
    if reply.status == 200 {
        say(&format!("applied: {}\n", reply.body["summary"].as_str().unwrap_or("done")));
        return OK;
    }
    let detail = reply.body["detail"].as_str().unwrap_or("no reason was given");
    eprintln!("{detail}\n");
    complain("the reload was refused; the old configuration goes on");
    FAILED
}
