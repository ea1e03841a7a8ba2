//! The HTML pages.

use axum::response::Html;

use super::devices::Device;

/// Returns the login form, with a message above it.
pub(crate) fn login(note: &str) -> Html<String> {
    page(LOGIN, note)
}

/// Returns the account page, with a message above it.
pub(crate) fn home(note: &str) -> Html<String> {
    page(HOME, note)
}

/// Returns the list of the account's sessions, with a message above it.
pub(crate) fn devices(note: &str, devices: impl Iterator<Item = Device>) -> Html<String> {
    let lines = devices.map(|device| {
        let Device { origin, name, login, last_use, is_this } = device;
        let this = if is_this { ", this one" } else { "" };
        let name = escape(&name);
        format!(
            "<label><input type=\"radio\" name=\"origin\" value=\"{origin}\" required> \
             {name}<br><small>logged in {login}, last used {last_use}{this}</small></label>\n"
        )
    });
    page(&DEVICES.replace("{lines}", &lines.collect::<String>()), note)
}

fn page(content: &str, note: &str) -> Html<String> {
    // Each template begins with its note, before anything that was inserted.
    let (before, after) = content.split_once("{note}").unwrap_or((content, ""));
    Html(format!("{HEAD}<main>{before}{}{after}</main>", escape(note)))
}

/// Makes text safe between tags. Attributes have only texts of our own.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>clustered-sessions: login</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 24rem; margin: 3rem auto; padding: 0 1rem }
  h1 { font-size: 1.5rem }
  form { display: grid; gap: .75rem; margin: 1.5rem 0 }
  input, button { font: inherit; padding: .5rem .75rem; width: 100%; box-sizing: border-box }
  input[type=radio] { width: auto }
</style>
"#;

const LOGIN: &str = r#"
<h1>Log in</h1>
<p role="status">{note}</p>
<form method="post" action="/login">
  <label>Name <input name="name" autocomplete="username" required maxlength="64"></label>
  <label>Password <input name="password" type="password" autocomplete="current-password"
    required maxlength="128"></label>
  <button>Log in</button>
</form>
"#;

const HOME: &str = r#"
<h1>Your account</h1>
<p role="status">{note}</p>
<form method="post" action="/password">
  <label>Old password <input name="old" type="password" autocomplete="current-password"
    required maxlength="128"></label>
  <label>New password <input name="new" type="password" autocomplete="new-password"
    required minlength="12" maxlength="128"></label>
  <button>Change password</button>
</form>
<p><a href="/devices">Where you are logged in</a></p>
<form method="post" action="/logout"><button>Log out</button></form>
<form method="post" action="/logout-everywhere"><button>Log out everywhere</button></form>
"#;

const DEVICES: &str = r#"
<h1>Where you are logged in</h1>
<p role="status">{note}</p>
<form method="post" action="/devices">
{lines}  <label>Password <input name="password" type="password" autocomplete="current-password"
    required maxlength="128"></label>
  <button>Log out that device</button>
</form>
<p><a href="/">Your account</a></p>
"#;
