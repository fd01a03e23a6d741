//! What a worker held for a connection that was lost, it gives back.

use crate::harness::jobs::{job_ids, quick_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::stack::Stack;
use crate::harness::worker::{Usage, Worker};
use crate::harness::{PATIENCE, eventually};

const TIMES: usize = 5;
/// Sockets and tasks that come and go: what rests and listens has its own rhythm.
const MORE: usize = 3;

/// How a server's connections are lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Reset,
    /// By the server, which says so.
    Closed,
    /// Reset, and new ones refused until the worker knows.
    Refused,
    /// Nothing comes on them, nor on new ones, until the worker knows.
    Silent,
}

/// Has it do some jobs, and gives what it holds when they are done.
async fn usage_after_jobs(
    stack: &Stack,
    worker: &Worker,
    name: &str,
    done: &mut Vec<String>,
) -> Usage {
    let jobs = quick_jobs(name, 20);
    stack.bus.publish_jobs(&jobs).await;
    done.extend(job_ids(&jobs));
    stack.expect_done(done.clone()).await;
    worker.wait_ready().await;
    worker.wait_in_hand(0).await;
    worker.usage().await
}

/// Waits until a worker says that it is without a server.
async fn expect_missed(worker: &Worker, server: &str) {
    let line = format!("{server}: ");
    eventually("the worker misses it", PATIENCE, async || {
        let (_, said) = worker.get("/readyz").await?;
        said.contains(&line).then_some(())
    })
    .await;
}

/// Has a worker lose its connections to a server, and waits until it has new ones.
async fn lose(stack: &Stack, worker: &Worker, server: &str, proxy: &Proxy, loss: Loss) {
    let accepted = proxy.accepted();
    match loss {
        Loss::Reset => {
            proxy.cut().await;
            proxy.resume().await;
        }
        Loss::Closed => {
            let close = ["close_all_connections", "-p", stack.vhost(), "a test"];
            stack.broker.ctl(&close).await;
        }
        Loss::Refused => {
            proxy.cut().await;
            expect_missed(worker, server).await;
            proxy.resume().await;
        }
        Loss::Silent => {
            proxy.blackhole().await;
            expect_missed(worker, server).await;
            proxy.resume().await;
        }
    }
    eventually("it connects again", PATIENCE, async || {
        (proxy.accepted() > accepted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_lost_again_and_again_leave_nothing_behind() {
    let stack = Stack::shared().await;
    let broker = Proxy::start(stack.broker.port).await;
    let redis = Proxy::start(stack.redis.port).await;
    let postgres = Proxy::start(stack.postgres.port).await;
    let worker = stack
        .worker()
        .expect_trouble()
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_AMQP__HEARTBEAT_SECONDS", "1")
        .set("KILN_AMQP_URL", &stack.amqp_url_at(broker.port))
        .set(
            "KILN_REDIS_URL",
            &format!("redis://127.0.0.1:{}/0", redis.port),
        )
        .set("KILN_DATABASE_URL", &stack.database_url_at(postgres.port))
        .start()
        .await;
    let mut done = Vec::new();
    usage_after_jobs(&stack, &worker, "first", &mut done).await;
    let declared = "jobs may wait in a lane's queues";
    let is_declared = |line: &str| line.contains(declared);
    worker.wait_for_line(declared, is_declared).await;
    let mut held = usage_after_jobs(&stack, &worker, "before", &mut done).await;
    println!("before: {held:?}");
    let losses = [Loss::Reset, Loss::Refused, Loss::Silent];
    let servers = [
        ("broker", &broker),
        ("redis", &redis),
        ("postgres", &postgres),
    ];
    let losses = servers
        .into_iter()
        .flat_map(|server| losses.map(|loss| (server, loss)));
    let losses: Vec<_> = losses.chain([(servers[0], Loss::Closed)]).collect();
    for n in 0..TIMES {
        for ((server, proxy), loss) in losses.iter().copied() {
            lose(&stack, &worker, server, proxy, loss).await;
            let name = format!("{server}-{loss:?}-{n}");
            let now = usage_after_jobs(&stack, &worker, &name, &mut done).await;
            println!("{name}: {now:?}");
            if n == 0 {
                // Connections are made as they are needed: by now it has all that it keeps.
                held.sockets = held.sockets.max(now.sockets);
                held.tasks = held.tasks.max(now.tasks);
            }
        }
    }
    eventually("it holds what it held", PATIENCE, async || {
        let now = worker.usage().await;
        let fits = now.sockets <= held.sockets + MORE && now.tasks <= held.tasks + MORE;
        fits.then_some(())
    })
    .await;
    worker.stop().await;
}
