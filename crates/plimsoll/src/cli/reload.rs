//! `plimsoll reload`: reloads the configuration of a running instance.

use super::admin_client::{error_detail, request};
use super::exit_code::{DOWN, FAILED, OK};
use super::terminal::{error_line, print, print_error};

/// Asks the instance at `admin` to reload and prints the result.
pub(crate) fn run(admin: &str) -> u8 {
    let response = match request(admin, "POST", "/v1/config:reload") {
        Ok(response) => response,
        Err(error) => {
            error_line(&error.to_string());
            return DOWN;
        }
    };
    if response.status == 200 {
        print(&format!("applied: {}\n", response.body["summary"].as_str().unwrap_or("done")));
        return OK;
    }
    print_error(&format!("{}\n\n", error_detail(&response.body)));
    error_line("the new configuration was rejected; the running configuration is unchanged");
    FAILED
}
