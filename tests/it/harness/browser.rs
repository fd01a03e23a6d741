//! A headless Chromium, driven as people drive one: by WebDriver.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::worker::ask;
use super::{PATIENCE, eventually, sandbox};

/// One browser; closed when dropped.
pub struct Browser {
    port: u16,
    session: String,
    driver: Child,
    folder: PathBuf,
}

impl Browser {
    /// Opens a window of this size, in pixels.
    pub async fn open(width: u32, height: u32) -> Self {
        let folder = sandbox::folder("browser");
        let port = sandbox::free_port();
        let mut command = sandbox::clean_command("chromedriver", &folder);
        command.arg(format!("--port={port}"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let driver = command
            .spawn()
            .expect("chromedriver starts: scripts/test installs it");
        let mut browser = Self {
            port,
            session: String::new(),
            driver,
            folder,
        };
        eventually("the driver answers", PATIENCE, || async {
            let status = ask(port, "GET", "/status", &[], b"").await?;
            status.json()["value"]["ready"].as_bool().filter(|is| *is)
        })
        .await;
        let profile = browser.folder.join("profile");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            // A page that still moves has nothing to click on.
            "--force-prefers-reduced-motion".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            format!("--window-size={width},{height}"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "pageLoadStrategy": "normal",
        }}});
        let made = browser.driver("POST", "/session", &wanted).await;
        browser.session = made["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    async fn driver(&self, method: &str, path: &str, body: &Value) -> Value {
        let said = self.asked(method, path, body).await;
        said.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// What the driver answers; an error is what it says is wrong.
    async fn asked(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        let bytes = if method == "GET" {
            b""
        } else {
            body.as_bytes()
        };
        let answer = ask(self.port, method, path, &[], bytes).await;
        let answer = answer.ok_or("the driver doesn't answer")?;
        let said = answer.json()["value"].take();
        match answer.status {
            200 => Ok(said),
            _ => Err(said["message"].to_string()),
        }
    }

    async fn here(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.driver(method, &path, body).await
    }

    pub async fn go(&self, url: &str) {
        self.here("POST", "/url", &json!({"url": url})).await;
    }

    /// Runs the body of a function in the page, and gives what it returns.
    pub async fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.here("POST", "/execute/sync", &body).await
    }

    /// The text of the first element that a selector finds.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script)
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Clicks on the first element that a selector finds, as a mouse does, once it is there and nothing covers it.
    pub async fn click(&self, selector: &str) {
        let path = format!("/session/{}/element", self.session);
        let find = json!({"using": "css selector", "value": selector});
        eventually(&format!("{selector} is clicked"), PATIENCE, || async {
            let element = self.asked("POST", &path, &find).await.ok()?;
            let id = element.as_object()?.values().next()?.as_str()?.to_owned();
            let click = format!("{path}/{id}/click");
            self.asked("POST", &click, &json!({})).await.ok()
        })
        .await;
    }

    /// Presses keys, whatever has the focus.
    pub async fn press(&self, keys: &str) {
        let each = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        });
        let actions: Vec<Value> = each.collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.here("POST", "/actions", &body).await;
    }

    /// Gives the page so many pixels: a window itself is never as narrow as a phone.
    pub async fn resize(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
        self.here("POST", "/goog/cdp/execute", &command).await;
    }

    /// What the page and the browser complained of since it was asked last.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self
            .here("POST", "/se/log", &json!({"type": "browser"}))
            .await;
        let lines = log.as_array().cloned().unwrap_or_default();
        let told = lines.iter().filter_map(|line| line["message"].as_str());
        told.map(str::to_owned).collect()
    }

    /// Keeps a picture of the window where `SCREENSHOTS` names a folder.
    pub async fn picture(&self, name: &str) {
        let Ok(folder) = std::env::var("SCREENSHOTS") else {
            return;
        };
        let picture = self.here("GET", "/screenshot", &Value::Null).await;
        let text = picture.as_str().expect("base64");
        let path = PathBuf::from(folder).join(format!("{name}.png"));
        fs::write(path, base64(text)).expect("the folder of pictures is writable");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        sandbox::kill_all_under(&self.folder);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(value).map(u32::from).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, d| bits << 6 | d) << (6 * (4 - group.len()));
        bytes.extend(bits.to_be_bytes()[1..group.len()].iter());
    }
    bytes
}
