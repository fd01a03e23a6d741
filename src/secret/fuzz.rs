//! URLs that nobody thought of: their passwords are never shown, and each address is one of its own.

use super::*;
use kiln_fuzz::Target;

#[test]
fn fuzz_secret() {
    Target::new("secret").memory(64 << 10, 256).run(|case| {
        let odd = [
            "", "p", "@", "/", ",", "?", "#", ":", "%40", "é", " ", "[", "=", "&",
        ];
        let password = format!("c4n4ry{}{}", case.pick(&odd), case.pick(&odd));
        let scheme = *case.pick(&["amqp", "amqps", "redis+sentinel", "postgres"]);
        let hosts = *case.pick(&["h", "h:1", "h,i:2", "[::1]:5672", "", "h,,i", ","]);
        let path = *case.pick(&["", "/", "/%2f", "/db"]);
        let query = *case.pick(&[
            "",
            "?x=1",
            "?password=c4n4ry2&x=c",
            "?sslpassword=c4n4ry3#f",
        ]);
        let user = *case.pick(&["u", "", "u%3a"]);
        let one = format!("{scheme}://{user}:{password}@{hosts}{path}{query}");
        let url = match case.below(3) {
            0 => format!("{one},{one}"),
            1 => format!(" {one} "),
            _ => one,
        };
        let secret = Secret::new(url.clone());
        let all = case.bounded(url.len(), || secret.addresses());
        let shown = [
            format!("{secret:?}"),
            secret.host(),
            serde_json::to_string(&secret).expect("JSON"),
            secret.anonymous().host(),
            secret.scrub(&format!("can't reach {url}: {password}")),
            all.iter().map(Secret::host).collect::<Vec<_>>().join(" "),
        ];
        for shown in &shown {
            assert!(!shown.contains("c4n4ry"), "{shown} of {url}");
        }
        for address in &all {
            assert_eq!(address.addresses(), std::slice::from_ref(address), "{url}");
        }
        case.saw(&format!("{} addresses", all.len()));
    });
}
