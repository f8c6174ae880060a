# A machine as a service of Nomad, by its driver `exec`, which takes the command
# of the client machine. Nomad asks for counters, and so finds out whether the
# launcher answers.
job "lguest" {
  type = "service"

  group "machines" {
    count = 2

    network {
      port "metrics" {}
    }

    service {
      name     = "lguest"
      provider = "nomad"
      port     = "metrics"

      check {
        type     = "http"
        path     = "/metrics"
        interval = "10s"
        timeout  = "5s"
      }
    }

    task "machine" {
      driver       = "exec"
      user         = "nobody"
      kill_timeout = "30s"

      config {
        command = "/usr/local/bin/lguest"
        args = [
          "run",
          "--memory=32M",
          "--metrics=${NOMAD_ADDR_metrics}",
        ]
      }

      resources {
        cpu    = 100
        memory = 96
      }
    }
  }
}
