module tollway-bench

go 1.19
