from ranks import main

main()
